"""Record the inputs of each prepared volume, to rebuild it when they change.

The record of scan 7 is `scan_7.record.json` beside `image_7.nii.gz` and `label_7.nii.gz`. Inputs are the
content of the raw files, the parameters and the code's version; a modified volume is rebuilt, too. A volume
without a record was made elsewhere.
"""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data.file_states import FileState, confirm_state, file_state
from data.layout import DatasetLayout
from data.raw.raw_scans import RawScan
from data.raw_grids import RawGrid
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import UserError
from util.io.image_io import Geometry
from util.io.json_files import read_json, write_json

# Increase it with every change of readers or transforms that alters a prepared voxel or its position: volumes
# of an older version are then rebuilt.
PREPARATION_VERSION = 2

_RECORD_NAME = re.compile(r"scan_(\d+)\.record\.json")


@dataclass(frozen=True)
class ScanRecord:
    """Inputs and state of one scan's volumes.

    Attributes:
        parameters: everything that they depend on except raw files; see `list_parameters`.
        name: the scan's name in the download.
        raw: (role, name, state) of each raw file; not its folder, so that a download may move.
        image: the written image.
        label_map: the written label map; None for a scan without labels.
        grid: of the raw image; volumes do not depend on it. None in records of earlier versions.
    """

    parameters: Annotated[dict, Field(validation_alias="recipe")]
    name: str
    raw: tuple[tuple[str, str, FileState], ...]
    image: FileState
    label_map: FileState | None
    grid: RawGrid | None = None


def list_parameters(spec: DatasetSpec, preparation: Preparation) -> dict:
    """Return all parameters that voxels depend on, as plain values that survive JSON."""
    parameters = {
        "preparation_version": PREPARATION_VERSION,
        "dataset": spec.name,
        "labels": sorted(spec.labels),
        "preparation": asdict(preparation),
    }
    return json.loads(json.dumps(parameters))


def hash_raw_files(scan: RawScan) -> tuple[tuple[str, str, FileState], ...]:
    """Hash a scan's raw files; raises `UserError` if one cannot be read."""
    return tuple((role, path.name, file_state(path)) for role, path in _raw_files(scan))


def scan_record_path(layout: DatasetLayout, scan_id: int) -> Path:
    """Return the path of a scan's record."""
    return layout.volumes_dir / f"scan_{scan_id}.record.json"


def list_recorded_ids(layout: DatasetLayout) -> list[int]:
    """List the ids of scans with a record, intact or damaged, in increasing order."""
    entries = layout.volumes_dir.iterdir() if layout.volumes_dir.is_dir() else ()
    return sorted(int(match[1]) for entry in entries if (match := _RECORD_NAME.fullmatch(entry.name)))


def write_scan_record(path: Path, record: ScanRecord) -> None:
    """Write a record as JSON atomically; raises `UserError` if that fails."""
    fields = asdict(record)
    fields = {"recipe": fields.pop("parameters"), **fields}  # the parameters' name in every version's files
    write_json(path, fields)


def read_scan_record(path: Path) -> ScanRecord | None:
    """Read a record; None if it is missing, damaged or not one of ours."""
    return read_json(path, ScanRecord)


def volumes_are_current(
    layout: DatasetLayout, scan_id: int, parameters: dict, *, scan: RawScan | None
) -> bool:
    """Return whether a scan's volumes match its raw files and the parameters.

    Files are hashed only if their times differ from the record, which is then refreshed.

    Args:
        layout: paths of the volumes.
        scan_id: the scan's id.
        parameters: the present one.
        scan: its raw files; None if they are known to be unchanged.
    """
    path = scan_record_path(layout, scan_id)
    record = read_scan_record(path)
    if record is None or record.parameters != parameters:
        return False
    raw = record.raw if scan is None else _confirm_raw(record.raw, scan)
    image = confirm_state(record.image, layout.image_path(scan_id))
    is_same_label, label_map = _confirm_label(record.label_map, layout.label_path(scan_id))
    if raw is None or image is None or not is_same_label:
        return False
    confirmed = replace(record, raw=raw, image=image, label_map=label_map)
    if confirmed != record:
        with suppress(UserError):  # a read-only folder costs only time
            write_scan_record(path, confirmed)
    return True


def update_grid(layout: DatasetLayout, scan: RawScan, *, read_geometry: Callable[[], Geometry]) -> None:
    """Update the raw grid in the record of an up-to-date scan.

    Args:
        layout: paths of the volumes.
        scan: the raw scan.
        read_geometry: reads its grid, for a record of an earlier version.
    """
    path = scan_record_path(layout, scan.scan_id)
    record = read_scan_record(path)
    if record is None or (record.grid is not None and record.grid.path == scan.folder):
        return
    with suppress(UserError):  # a read-only folder keeps its record
        if record.grid is None:
            grid = RawGrid.from_scan(scan, read_geometry())
        else:
            grid = replace(record.grid, folder=str(scan.folder))
        write_scan_record(path, replace(record, grid=grid))


def _confirm_label(known: FileState | None, path: Path) -> tuple[bool, FileState | None]:
    """Return whether a label map is unchanged or still missing, with its state."""
    if known is None:
        return not path.exists(), None
    present = confirm_state(known, path)
    return present is not None, present


def _raw_files(scan: RawScan) -> Iterable[tuple[str, Path]]:
    yield from (("image", path) for path in scan.image_files)
    yield from (("label", path) for path in scan.label_files)


def _confirm_raw(
    known: tuple[tuple[str, str, FileState], ...], scan: RawScan
) -> tuple[tuple[str, str, FileState], ...] | None:
    """Return the raw files' states if their contents are unchanged, else None."""
    files = list(_raw_files(scan))
    if [(role, path.name) for role, path in files] != [(role, name) for role, name, _ in known]:
        return None
    states = [confirm_state(state, path) for (_, _, state), (_, path) in zip(known, files, strict=True)]
    if None in states:
        return None
    return tuple((role, path.name, state) for (role, path), state in zip(files, states, strict=True))
