"""Fingerprint of a prepared dataset: statistics and a content hash.

The hash depends on voxels, grids and label ids, not on compression, file times, the dtype of equal values,
the order of files or the machine.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from data.layout import DatasetLayout
from data.prepared_files import PreparedFiles, map_scans, read_case_names, read_prepared_files
from data.volume_records import read_scan_record, scan_record_path
from util.errors import UserError
from util.io.json_files import write_json
from util.io.volume_hash import HASH_BYTES, hash_volume

FINGERPRINT_NAME = "fingerprint.json"
# Increase it when the same data would give another hash, or the file other fields.
FINGERPRINT_VERSION = 1
PERCENTILES = (0.5, 50.0, 99.5)

# A scan's id, and the hashes of its image and of its labels.
_Entry = tuple[int, str, str | None]


@dataclass(frozen=True)
class OrganExtent:
    """Extent of an organ in a scan."""

    label: int
    name: str
    n_voxels: int
    n_slices: int  # with at least one voxel


@dataclass(frozen=True)
class SupervoxelSizes:
    """Statistics of a scan's supervoxels; sizes are 0 if there are none."""

    min_size_vox: int  # requested minimum, part of the folder's name
    count: int
    smallest_vox: int
    median_vox: float
    largest_vox: int
    covered: float  # fraction of the voxels that belong to one


@dataclass(frozen=True)
class ScanFingerprint:
    """Content of one scan's files.

    Attributes:
        scan_id: the number in the file names.
        name: in the download; None if unknown.
        shape, spacing_mm: `(Z, H, W)` and `(z, y, x)`.
        percentiles: of the intensities, at PERCENTILES.
        organs, label_hash: of the labels; None for a scan without labels.
        supervoxels: None for a scan without them.
        image_hash: of voxels and grid, hexadecimal.
        preparation_version: of the code that prepared the scan; None if prepared elsewhere.
    """

    scan_id: int
    name: str | None
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    percentiles: tuple[float, ...]
    organs: tuple[OrganExtent, ...] | None
    supervoxels: SupervoxelSizes | None
    image_hash: str
    label_hash: str | None
    preparation_version: int | None


@dataclass(frozen=True)
class Fingerprint:
    """A prepared dataset's name, `fingerprint_hash` and scans, ordered by id."""

    dataset: str
    hash: str
    scans: tuple[ScanFingerprint, ...]

    def matches(self, scan_ids: Sequence[int], labelled_ids: Sequence[int]) -> bool:
        """Return whether it describes exactly these scans and these labelled ones."""
        labelled = [scan.scan_id for scan in self.scans if scan.label_hash is not None]
        return [scan.scan_id for scan in self.scans] == sorted(scan_ids) and labelled == sorted(labelled_ids)


def make_fingerprint(layout: DatasetLayout, *, n_workers: int | None = None) -> Fingerprint:
    """Compute a dataset's fingerprint, reading each file once.

    Args:
        layout: paths of the files, prepared here or elsewhere.
        n_workers: see `map_scans`.

    Raises:
        UserError: there is no scan, a file is damaged, or files do not belong together.
    """
    names = read_case_names(layout)
    scans = map_scans(
        lambda scan_id: _fingerprint_scan(layout, scan_id, names.get(scan_id)), layout, n_workers=n_workers
    )
    return Fingerprint(layout.spec.name, fingerprint_hash(scans), tuple(scans))


def write_fingerprint(layout: DatasetLayout, *, n_workers: int | None = None) -> Fingerprint:
    """Write a dataset's fingerprint to `fingerprint.json` in the data folder.

    Raises `UserError` as `make_fingerprint` does, or if the file cannot be written.
    """
    fingerprint = make_fingerprint(layout, n_workers=n_workers)
    fields = {"fingerprint_version": FINGERPRINT_VERSION, **asdict(fingerprint)}
    path = layout.data_dir / FINGERPRINT_NAME
    write_json(path, fields, ensure_ascii=False)
    return fingerprint


def read_fingerprint(layout: DatasetLayout) -> Fingerprint | None:
    """Read a fingerprint; None if missing, or of another dataset or version.

    Raises:
        UserError: the file is damaged.
    """
    path = layout.data_dir / FINGERPRINT_NAME
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version, dataset = fields["fingerprint_version"], fields["dataset"]
        if type(version) is not int or not isinstance(dataset, str):
            raise TypeError("fingerprint_version must be a number, dataset a string")
        if version != FINGERPRINT_VERSION or dataset != layout.spec.name:
            return None
        fingerprint = Fingerprint(dataset, fields["hash"], tuple(_scan_of(scan) for scan in fields["scans"]))
        if fingerprint.hash != fingerprint_hash(fingerprint.scans):
            raise ValueError("its hash is not that of its scans")
    except KeyError as error:
        raise UserError(f"{path}: damaged ({error} is missing); delete it to have it rebuilt") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged ({reason}); delete it to have it rebuilt") from error
    return fingerprint


def fingerprint_hash(scans: Iterable[ScanFingerprint]) -> str:
    """Hash ids, voxels, grids and labels of scans in any order; ignores all else."""
    return _hash_entries((scan.scan_id, scan.image_hash, scan.label_hash) for scan in scans)


def hash_dataset(layout: DatasetLayout) -> str:
    """Return the hash of `make_fingerprint` without reading supervoxels."""

    def hash_scan(scan_id: int) -> _Entry:
        files = read_prepared_files(layout, scan_id, with_supervoxels=False)
        label_hash = None if files.label_map is None else hash_volume(files.label_map)
        return scan_id, hash_volume(files.image, files.geometry), label_hash

    return _hash_entries(map_scans(hash_scan, layout))


def _hash_entries(entries: Iterable[_Entry]) -> str:
    """Hash the hashes of scans in any order."""
    entries = sorted(
        (scan_id, image_hash, label_hash or "none") for scan_id, image_hash, label_hash in entries
    )
    text = f"fingerprint {FINGERPRINT_VERSION}\n" + "".join(f"{i} {a} {b}\n" for i, a, b in entries)
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).hexdigest()


def _scan_of(fields: dict) -> ScanFingerprint:
    """Restore a scan's fingerprint from JSON."""
    organs, supervoxels = fields["organs"], fields["supervoxels"]
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    values["organs"] = None if organs is None else tuple(OrganExtent(**organ) for organ in organs)
    values["supervoxels"] = None if supervoxels is None else SupervoxelSizes(**supervoxels)
    return ScanFingerprint(**values)


def _fingerprint_scan(layout: DatasetLayout, scan_id: int, name: str | None) -> ScanFingerprint:
    files = read_prepared_files(layout, scan_id)
    record = read_scan_record(scan_record_path(layout, scan_id))
    # float64, so that the percentiles do not depend on the file's dtype.
    percentiles = np.percentile(files.image.astype(np.float64), PERCENTILES)
    has_labels = files.label_map is not None
    return ScanFingerprint(
        scan_id=scan_id,
        name=name,
        shape=files.geometry.shape,
        spacing_mm=tuple(round(step, 4) for step in files.geometry.spacing_mm),
        percentiles=tuple(float(f"{value:.6g}") for value in percentiles),
        organs=_measure_organs(files.label_map, layout.spec.labels) if has_labels else None,
        supervoxels=_measure_supervoxels(files, layout.supervoxel_min_vox),
        image_hash=hash_volume(files.image, files.geometry),
        label_hash=hash_volume(files.label_map) if has_labels else None,
        preparation_version=record.parameters.get("preparation_version") if record else None,
    )


def _measure_organs(label_map: np.ndarray, names: dict[int, str]) -> tuple[OrganExtent, ...]:
    n_voxels, n_slices = Counter(), Counter()
    for image in label_map:
        counts = zip(*(values.tolist() for values in np.unique(image, return_counts=True)), strict=True)
        for label, count in counts:
            n_voxels[label] += count
            n_slices[label] += 1
    return tuple(
        OrganExtent(label, name, n_voxels[label], n_slices[label]) for label, name in sorted(names.items())
    )


def _measure_supervoxels(files: PreparedFiles, min_size_vox: int) -> SupervoxelSizes | None:
    if files.supervoxels is None:
        return None
    # Sorting takes ten times as long, but foreign ids may be too large for a histogram.
    if files.supervoxels.max() <= files.supervoxels.size:
        sizes = np.bincount(files.supervoxels.ravel())[1:]
        sizes = sizes[sizes > 0]
    else:
        sizes = np.unique(files.supervoxels[files.supervoxels > 0], return_counts=True)[1]
    if not sizes.size:
        return SupervoxelSizes(min_size_vox, 0, 0, 0.0, 0, 0.0)
    return SupervoxelSizes(
        min_size_vox=min_size_vox,
        count=int(sizes.size),
        smallest_vox=int(sizes.min()),
        median_vox=float(np.median(sizes)),
        largest_vox=int(sizes.max()),
        covered=round(float(sizes.sum() / files.supervoxels.size), 4),
    )
