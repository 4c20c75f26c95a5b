"""Say in one small file what a prepared dataset holds.

Two datasets are the same where the hashes of their fingerprints are.

The hash depends on voxels, grids and label ids. Compression, file times, the dtype that equal values are
stored in and the order of files do not change it, nor does who prepared the data. It is the same on every
machine.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from data.layout import DatasetLayout
from data.prepared_files import PreparedFiles, map_scans, read_case_names, read_prepared_files
from data.volume_records import read_record, record_path
from util.errors import UserError
from util.io.files import write_text
from util.io.volume_hash import HASH_BYTES, hash_volume

FINGERPRINT_NAME = "fingerprint.json"
# Raise it when the same data would give another hash or the file has other fields.
FINGERPRINT_VERSION = 1
PERCENTILES = (0.5, 50.0, 99.5)

# A scan's id, and the hashes of its image and of its labels.
_Entry = tuple[int, str, str | None]


@dataclass(frozen=True)
class OrganExtent:
    """How much of a scan an organ fills.

    Attributes:
        label: its id.
        name: the organ.
        n_voxels: of this label.
        n_slices: that hold at least one of them.
    """

    label: int
    name: str
    n_voxels: int
    n_slices: int


@dataclass(frozen=True)
class SupervoxelSizes:
    """How a scan is cut into supervoxels.

    Attributes:
        min_size_vox: the least size asked for; it stands in the folder's name.
        count: how many there are.
        smallest_vox, median_vox, largest_vox: their sizes, 0 where there is none.
        covered: share of the voxels that belong to one.
    """

    min_size_vox: int
    count: int
    smallest_vox: int
    median_vox: float
    largest_vox: int
    covered: float


@dataclass(frozen=True)
class ScanFingerprint:
    """What one scan's files hold.

    Attributes:
        scan_id: the number in the file names.
        name: what the download calls it; None where nothing tells.
        shape: `(Z, H, W)`.
        spacing_mm: `(z, y, x)`.
        percentiles: of the intensities, at PERCENTILES.
        organs: of the dataset's labels; None for a scan without labels.
        supervoxels: None for a scan without them.
        image_hash: of voxels and grid, hexadecimal.
        label_hash: of the labels; None for a scan without.
        preparation_version: of our code that prepared the scan; None where others did.
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
    """What a prepared dataset holds.

    Attributes:
        dataset: its name.
        hash: of all scans' voxels, grids and labels; see `fingerprint_hash`.
        scans: in the order of their ids.
    """

    dataset: str
    hash: str
    scans: tuple[ScanFingerprint, ...]

    def holds(self, scan_ids: Sequence[int], labelled_ids: Sequence[int]) -> bool:
        """Say whether these are its scans, and those of them with labels."""
        labelled = [scan.scan_id for scan in self.scans if scan.label_hash is not None]
        return [scan.scan_id for scan in self.scans] == sorted(scan_ids) and labelled == sorted(labelled_ids)

    def changed_scans(self, other: "Fingerprint") -> list[int]:
        """List the ids of the scans that differ.

        Only one of the two datasets holds them, or their images or labels are not the same.
        """
        mine, others = (
            {(scan.scan_id, scan.image_hash, scan.label_hash) for scan in one.scans} for one in (self, other)
        )
        return sorted({scan_id for scan_id, *_ in mine ^ others})


def make_fingerprint(layout: DatasetLayout, *, n_workers: int | None = None) -> Fingerprint:
    """Read a prepared dataset's files, each once, and say what they hold.

    Args:
        layout: where they lie; anybody may have prepared them.
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
    """Make a dataset's fingerprint and write it to `fingerprint.json`.

    That lies in the data folder. See `make_fingerprint` for what is raised; `UserError` also where the file
    cannot be written.
    """
    made = make_fingerprint(layout, n_workers=n_workers)
    fields = {"fingerprint_version": FINGERPRINT_VERSION, **asdict(made)}
    path = layout.data_dir / FINGERPRINT_NAME
    write_text(path, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")
    return made


def read_fingerprint(layout: DatasetLayout) -> Fingerprint | None:
    """Read a dataset's fingerprint, as it was when somebody wrote it.

    Returns:
        The fingerprint; None where there is no file, or one of another dataset or of another version of this
        module.

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
            raise TypeError("fingerprint_version must be a number, dataset a text")
        if version != FINGERPRINT_VERSION or dataset != layout.spec.name:
            return None
        found = Fingerprint(dataset, fields["hash"], tuple(_scan_of(scan) for scan in fields["scans"]))
        if found.hash != fingerprint_hash(found.scans):
            raise ValueError("its hash is not that of its scans")
    except KeyError as error:
        raise UserError(f"{path}: damaged ({error} is missing); delete it to have it made anew") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged ({reason}); delete it to have it made anew") from error
    return found


def fingerprint_hash(scans: Iterable[ScanFingerprint]) -> str:
    """Hash ids, voxels, grids and labels of some scans, in whatever order.

    Names, supervoxels and what can be computed from the voxels do not count.
    """
    return _hash_entries((scan.scan_id, scan.image_hash, scan.label_hash) for scan in scans)


def hash_dataset(layout: DatasetLayout, *, n_workers: int | None = None) -> str:
    """Return the hash of a dataset's fingerprint alone, which is faster.

    Supervoxels are not read. See `make_fingerprint` for the arguments and what is raised.
    """

    def hash_scan(scan_id: int) -> _Entry:
        files = read_prepared_files(layout, scan_id, with_supervoxels=False)
        of_labels = None if files.label_map is None else hash_volume(files.label_map)
        return scan_id, hash_volume(files.image, files.geometry), of_labels

    return _hash_entries(map_scans(hash_scan, layout, n_workers=n_workers))


def _hash_entries(found: Iterable[_Entry]) -> str:
    """Hash the hashes of some scans, in whatever order."""
    entries = sorted((scan_id, of_image, of_labels or "none") for scan_id, of_image, of_labels in found)
    text = f"fingerprint {FINGERPRINT_VERSION}\n" + "".join(f"{i} {a} {b}\n" for i, a, b in entries)
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).hexdigest()


def _scan_of(fields: dict) -> ScanFingerprint:
    """Make a scan's fingerprint of what JSON kept of it."""
    organs, supervoxels = fields["organs"], fields["supervoxels"]
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    values["organs"] = None if organs is None else tuple(OrganExtent(**organ) for organ in organs)
    values["supervoxels"] = None if supervoxels is None else SupervoxelSizes(**supervoxels)
    return ScanFingerprint(**values)


def _fingerprint_scan(layout: DatasetLayout, scan_id: int, name: str | None) -> ScanFingerprint:
    files = read_prepared_files(layout, scan_id)
    record = read_record(record_path(layout, scan_id))
    # float64, so that the numbers do not depend on the file's dtype either.
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
        preparation_version=record.recipe.get("preparation_version") if record else None,
    )


def _measure_organs(label_map: np.ndarray, names: dict[int, str]) -> tuple[OrganExtent, ...]:
    n_voxels, n_slices = Counter(), Counter()
    for image in label_map:
        counts = zip(*(found.tolist() for found in np.unique(image, return_counts=True)), strict=True)
        for label, count in counts:
            n_voxels[label] += count
            n_slices[label] += 1
    return tuple(
        OrganExtent(label, name, n_voxels[label], n_slices[label]) for label, name in sorted(names.items())
    )


def _measure_supervoxels(files: PreparedFiles, min_size_vox: int) -> SupervoxelSizes | None:
    if files.supervoxels is None:
        return None
    # Sorting would take ten times as long, but ids of others' files may be too large to be counted up to.
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
