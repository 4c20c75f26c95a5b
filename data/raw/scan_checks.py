"""Check raw scans before any work is done on them.

A problem is one line: the file, what must hold, what was found; what to do.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.label_maps import distinct_values
from data.specs import DatasetSpec
from util.evaluation import N_FOLDS
from util.io.image_io import Geometry


def fold_remarks(n_labelled: int, *, n_unlabelled: int = 0) -> list[str]:
    """Remark on too few labelled scans for the protocol's folds."""
    if n_labelled >= N_FOLDS:
        return []
    hint = "training and prediction do not" if n_unlabelled else "add scans before training"
    return [
        f"{n_labelled} scan(s) with labels can be prepared, but evaluation's {N_FOLDS} folds need at "
        f"least {N_FOLDS}; {hint}"
    ]


def image_problems(source: Path, image: np.ndarray) -> list[str]:
    """List problems of an image's voxels.

    Args:
        source: the file or folder that it was read from.
        image: `(Z, H, W)`.
    """
    if image.shape[0] < 2:
        return [f"{source}: must have at least 2 slices, got shape {image.shape}; leave the scan out"]
    if image.dtype.kind == "f":
        n_unusable = image.size - int(np.isfinite(image).sum())
        if n_unusable:
            return [
                f"{source}: voxels must be finite numbers, got {n_unusable} NaN or infinite; replace them, "
                "for example by the background's value"
            ]
    if image.min() == image.max():
        return [f"{source}: voxels must differ, all are {image.flat[0]:g}; restore the file"]
    return []


def grid_problems(label_file: Path, label: Geometry, *, image_file: Path, image: Geometry) -> list[str]:
    """Describe, in one line, how a label map's grid differs from its image's."""
    if label.same_grid(image):
        return []
    differences = [
        f"{what} {value} differs from {expected}"
        for what, value, expected in (
            ("shape", label.shape, image.shape),
            ("spacing (z, y, x) mm", _short(label.spacing_mm), _short(image.spacing_mm)),
            ("origin (x, y, z) mm", _short(label.origin_mm), _short(image.origin_mm)),
            ("direction", _short(label.direction), _short(image.direction)),
        )
        if not _is_close(value, expected)
    ]
    return [
        f"{label_file}: must lie on the grid of {image_file.name}, {' and '.join(differences)}; "
        "resample the labels, or fix the header if they were drawn on this image"
    ]


def organ_problems(source: Path, label_map: np.ndarray, spec: DatasetSpec) -> list[str]:
    """Report, in one line, that a scan has none of the test organs."""
    if np.isin(label_map, spec.test_labels).any():
        return []
    organs = ", ".join(f"{label} {spec.labels[label]}" for label in spec.test_labels)
    present = ", ".join(str(label) for label in distinct_values(label_map) if label) or "background only"
    return [
        f"{source}: must hold at least one of {organs}, got {present}; check the labels or leave the scan out"
    ]


def _is_close(value: tuple[float, ...], expected: tuple[float, ...]) -> bool:
    return len(value) == len(expected) and np.allclose(value, expected, rtol=0, atol=1e-3)


def _short(numbers: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(number), 4) + 0.0 for number in numbers)
