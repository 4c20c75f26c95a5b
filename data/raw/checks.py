"""What must hold of raw scans before any work is done on them.

A problem is one line: the file, what must hold, what was found; the way out.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.raw.records import RawDataset, RawScan
from data.specs import DatasetSpec
from util.image_io import Geometry

_FEWEST_FOR_FOLDS = 5
_LONGEST_LIST = 5
_LARGEST_TABLE = 1 << 20


def check_scan(dataset: RawDataset, scan: RawScan) -> list[str]:
    """List everything that is wrong with one scan, one line each.

    The list is empty if nothing is. All of the scan's files are read.
    """
    return dataset.inspect(scan)[1]


def check_dataset(dataset: RawDataset) -> list[str]:
    """List what is wrong with a download as a whole, one line each.

    Labels without images, several scans of one id, folders without scans. No voxel is read.
    """
    return list(dataset.problems)


def fold_remarks(n_scans: int) -> list[str]:
    """Remark, in a line, that scans are too few for the protocol's folds."""
    if n_scans >= _FEWEST_FOR_FOLDS:
        return []
    return [
        f"{n_scans} scan(s) can be prepared, but {_FEWEST_FOR_FOLDS} folds need at least "
        f"{_FEWEST_FOR_FOLDS}; add scans before training"
    ]


def image_problems(place: Path, image: np.ndarray) -> list[str]:
    """List what is wrong with an image's voxels.

    Args:
        place: the file or folder that it was read from.
        image: `(Z, H, W)`.
    """
    if image.shape[0] < 2:
        return [f"{place}: must have at least 2 slices, got shape {image.shape}; leave the scan out"]
    if image.dtype.kind == "f":
        n_unusable = image.size - int(np.isfinite(image).sum())
        if n_unusable:
            return [
                f"{place}: voxels must be finite numbers, got {n_unusable} NaN or infinite; replace them, "
                "by the background's value for example"
            ]
    if image.min() == image.max():
        return [f"{place}: voxels must differ, all are {image.flat[0]:g}; restore the file"]
    return []


def grid_problems(label_file: Path, label: Geometry, *, image_file: Path, image: Geometry) -> list[str]:
    """Tell, in one line, where a label map's grid differs from its image's."""
    if label.same_grid(image):
        return []
    differences = [
        f"{what} {found} differs from {wanted}"
        for what, found, wanted in (
            ("shape", label.shape, image.shape),
            ("spacing (z, y, x) mm", _short(label.spacing_mm), _short(image.spacing_mm)),
            ("origin (x, y, z) mm", _short(label.origin_mm), _short(image.origin_mm)),
            ("direction", _short(label.direction), _short(image.direction)),
        )
        if not _alike(found, wanted)
    ]
    return [
        f"{label_file}: must lie on the grid of {image_file.name}, {' and '.join(differences)}; "
        "resample the labels, or mend the header if they were drawn on this image"
    ]


def convert_labels(
    label_file: Path, stored: np.ndarray, meaning: Mapping[int, int]
) -> tuple[np.ndarray | None, list[str]]:
    """Turn a file's values into label ids.

    Args:
        label_file: for the message.
        stored: `(Z, H, W)`, integers, or floating point numbers that are whole.
        meaning: stored value -> label id; 0 is background and need not be there.

    Returns:
        The label map uint8 and no problem, or None and the problems.
    """
    values = _values(stored)
    known = {0: 0, **meaning}
    unknown = [value for value in values if value not in known]
    if unknown:
        return None, [unknown_values_line(label_file, unknown, sorted(known))]
    label_map = np.zeros(stored.shape, dtype=np.uint8)
    for value in values:
        if known[int(value)] != 0:
            label_map[stored == value] = known[int(value)]
    return label_map, []


def unknown_values_line(label_file: Path, unknown: Sequence[float], known: Collection[object]) -> str:
    """Say, as one problem, that a file holds values that mean no label."""
    found = listed([f"{value:g}" for value in unknown])
    return (
        f"{label_file}: label values must be among {', '.join(map(str, known))}, got {found}; "
        "correct these voxels, or list their labels in dataset.json if the data are your own"
    )


def organ_problems(place: Path, label_map: np.ndarray, spec: DatasetSpec) -> list[str]:
    """Tell, in one line, that a scan has none of the organs to test."""
    if np.isin(label_map, spec.test_labels).any():
        return []
    organs = ", ".join(f"{label} {spec.labels[label]}" for label in spec.test_labels)
    found = ", ".join(str(label) for label in _values(label_map) if label) or "background only"
    return [
        f"{place}: must hold at least one of {organs}, got {found}; check the labels or leave the scan out"
    ]


def listed(names: Sequence[str]) -> str:
    """Join names for a message, which many names must not make long."""
    if len(names) <= _LONGEST_LIST:
        return ", ".join(names)
    return f"{', '.join(names[:_LONGEST_LIST])} and {len(names) - _LONGEST_LIST} more"


def _values(array: np.ndarray) -> list:
    """List an array's distinct values in increasing order, NaN last; a table is far cheaper than sorting."""
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
        if high - low < _LARGEST_TABLE:
            counts = np.bincount((array.astype(np.int64, copy=False) - low).ravel())
            return [int(value) + low for value in np.flatnonzero(counts)]
    return np.unique(array).tolist()


def _alike(found: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
    return len(found) == len(wanted) and np.allclose(found, wanted, rtol=0, atol=1e-3)


def _short(numbers: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(number), 4) + 0.0 for number in numbers)
