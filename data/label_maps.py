"""Map the values of label files to a dataset's label ids."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from data.specs import DatasetSpec
from util.errors import UserError, shorten_list
from util.remarks import remark

_MAX_TABLE = 1 << 20


def to_label_ids(stored: np.ndarray, spec: DatasetSpec, *, path: Path, is_raw: bool = False) -> np.ndarray:
    """Map the values of a label file to label ids.

    Args:
        stored: `(Z, H, W)`, integers, or integral floating point numbers: label ids, or the challenge's raw
            ids.
        spec: the dataset, with its labels and raw ids.
        path: the file, for messages.
        is_raw: it is the challenge's, so that only raw ids are valid if the dataset has them.

    Returns:
        `(Z, H, W)` uint8, 0 = background.

    Raises:
        UserError: the file holds an unknown value, or ids of both kinds.
    """
    identity = {} if is_raw and spec.raw_labels else {label: label for label in spec.labels}
    ids = {0: 0, **identity, **spec.raw_labels}
    values = distinct_values(stored)
    unknown = [value for value in values if value not in ids]
    if unknown:
        line = describe_unknown_values(path, list(map(format_value, unknown)), ids)
        is_interpolated = any(not float(value).is_integer() for value in unknown)
        raise UserError(f"{line}, or resample it to the nearest voxel" if is_interpolated else line)
    raw_ids = [value for value in values if value in spec.raw_labels]
    label_ids = [value for value in values if value in spec.labels and value not in spec.raw_labels]
    if raw_ids and label_ids:
        text = shorten_list(map(format_value, values))
        raise UserError(f"{path}: must hold either label ids or raw ids, got both ({text}); restore the file")
    if not is_raw and raw_ids:
        pairs = ", ".join(f"{raw} as {label} {spec.labels[label]}" for raw, label in spec.raw_labels.items())
        remark(f"{spec.name}: label files with raw ids, read {pairs}")
    label_map = np.zeros(stored.shape, np.uint8)
    for value in values:
        if ids[value] != 0:
            label_map[stored == value] = ids[value]
    return label_map


def describe_unknown_values(path: Path, unknown: Sequence[str], known: Collection[object]) -> str:
    """Report, in one line, values of a file that are no label."""
    return (
        f"{path}: label values must be among {', '.join(map(str, known))}, got {shorten_list(unknown)}; "
        "correct these voxels, or list their labels in dataset.json if the data are your own"
    )


def format_value(value: float | np.number) -> str:
    """Format a value with as many digits as needed: 0.9999999 is not 1."""
    short = f"{value:g}"
    return short if float(short) == float(value) else str(value)


def distinct_values(array: np.ndarray) -> list:
    """List an array's distinct values in increasing order, NaN last."""
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
        if high - low < _MAX_TABLE:  # counting is far cheaper than sorting
            counts = np.bincount((array.astype(np.int64, copy=False) - low).ravel())
            return [int(value) + low for value in np.flatnonzero(counts)]
    return list(np.unique(array))
