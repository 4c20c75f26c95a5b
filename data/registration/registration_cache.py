"""Register many pairs of scans in parallel, each at most once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from data.processes import run_in_processes
from data.registration import ALGORITHM_VERSION
from data.registration.pairwise_registration import Quality, Registration, ScanVolume, check_scan, register
from data.registration.registration_stages import CORRELATION
from data.registration.spatial_transform import SpatialTransform
from util.errors import UserError
from util.io.files import remove_leftovers, write_text
from util.io.json_files import read_json_object
from util.io.volume_hash import hash_volume
from util.remarks import remark

_DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class _Task:
    """One pair to register; pickled for a worker process."""

    support: ScanVolume
    query: ScanVolume
    measure: str
    path: Path | None


def register_pairs(
    pairs: Sequence[tuple[ScanVolume, ScanVolume]],
    *,
    measure: str = CORRELATION,
    cache_dir: Path | None = None,
    n_workers: int | None = None,
    progress: bool = True,
) -> list[Registration]:
    """Register pairs of scans in worker processes.

    Args:
        pairs: support and query of each.
        measure: see `register`.
        cache_dir: folder with one file per pair and measure, named by a hash of both volumes and their
            geometry; created if missing. A damaged file is replaced. None: no cache.
        n_workers, progress: see `run_in_processes`.

    Returns:
        The registrations in the pairs' order, bit-identical whether computed or read.

    Raises:
        UserError: as `register` and `run_in_processes` do, or a cache file cannot be written.
    """
    for scan in {id(scan): scan for pair in pairs for scan in pair}.values():
        check_scan(scan)
    if cache_dir is not None:
        remove_leftovers(cache_dir)
    paths = [None if cache_dir is None else cache_path(cache_dir, *pair, measure=measure) for pair in pairs]
    tasks = [_Task(*pair, measure, path) for pair, path in zip(pairs, paths, strict=True)]
    cached = [None if task.path is None else _read(task.path) for task in tasks]
    missing = [task for task, registration in zip(tasks, cached, strict=True) if registration is None]
    computed = iter(
        run_in_processes(
            _register_and_store,
            missing,
            description=f"register by {measure}",
            n_workers=n_workers,
            progress=progress,
        )
    )
    return [next(computed) if registration is None else registration for registration in cached]


def cache_path(
    cache_dir: Path, support: ScanVolume, query: ScanVolume, *, measure: str = CORRELATION
) -> Path:
    """Return a pair's cache file, named by all that affects its registration."""
    key = {
        "scans": [[hash_volume(scan.voxels), asdict(scan.geometry)] for scan in (support, query)],
        "measure": measure,
        "versions": [ALGORITHM_VERSION, sitk.Version.VersionString()],
    }
    return Path(cache_dir) / f"{_digest(key)}.json"


def _register_and_store(task: _Task) -> Registration:
    registration = register(task.support, task.query, measure=task.measure)
    if task.path is not None:
        content = asdict(registration)
        # Python writes the shortest decimals that give the same float again.
        text = json.dumps({"checksum": _digest([task.path.name, content]), "registration": content})
        write_text(task.path, text)
    return registration


def _read(path: Path) -> Registration | None:
    """Read a cache file; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        stored = read_json_object(path, kind="cached registration")
        content: dict[str, Any] = stored["registration"]
        if stored["checksum"] != _digest([path.name, content]):
            raise ValueError("wrong checksum")
        transform = SpatialTransform(**{name: tuple(values) for name, values in content["transform"].items()})
        return Registration(transform, Quality(**content["quality"]))
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        remark(f"{path}: damaged cache file; the pair is registered again")
        return None


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
