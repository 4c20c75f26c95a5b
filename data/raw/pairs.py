"""Scans that are a NIfTI image and a NIfTI label map each: pair, read, check."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.raw.checks import convert_labels, grid_problems, image_problems, organ_problems
from data.raw.nifti import read_nifti
from data.raw.records import Inspection, RawScan, RawVolume
from data.specs import DatasetSpec
from util.errors import UserError
from util.image_io import Geometry

_Key = TypeVar("_Key", bound=Hashable)


def group_files(
    files: Iterable[Path], key_of: Callable[[Path], _Key | None]
) -> tuple[dict[_Key, Path], list[str]]:
    """Give each key its file.

    Args:
        files: all that were found.
        key_of: what a file's scan is called; None for a file that is something else.

    Returns:
        The first file of each key, and one problem for every other.
    """
    grouped: dict[_Key, Path] = {}
    problems = []
    for path in files:
        key = key_of(path)
        if key is None:
            continue
        first = grouped.setdefault(key, path)
        if first != path:
            problems.append(f"{path}: must be the only file of scan {key}, {first} is another; keep one")
    return grouped, problems


def without_image(images: Mapping[_Key, Path], labels: Mapping[_Key, Path]) -> list[str]:
    """List the label maps that have no image, one problem each."""
    return [
        f"{path}: must have an image of scan {key}, found none; add the image or take the labels out"
        for key, path in labels.items()
        if key not in images
    ]


def as_scan(scan_id: int, name: str, *, image: Path, label: Path | None) -> RawScan:
    """Make a scan of an image and its label map."""
    return RawScan(scan_id, name, (image,), () if label is None else (label,))


def inspect_pair(scan: RawScan, spec: DatasetSpec, *, meaning: Mapping[int, int] | None = None) -> Inspection:
    """Read a scan's image and label map, and list all that is wrong with them.

    Args:
        scan: one image file, and one label file; that there is none is a problem.
        spec: the dataset.
        meaning: stored label value -> label id; None where the files store the ids.

    Returns:
        The volume, or None where a file cannot be used; and the problems, one line each.
    """
    (image_file,), problems = scan.image_files, []
    image = _read(image_file, problems)
    if image is not None:
        problems += image_problems(image_file, image[0])
    if not scan.label_files:
        missing = f"{image_file}: must have a label file, found none of {scan.name}"
        return None, [*problems, f"{missing}; add it or take the image out"]
    (label_file,) = scan.label_files
    stored = _read(label_file, problems)
    if stored is None:
        return None, problems
    if image is not None:
        problems += grid_problems(label_file, stored[1], image_file=image_file, image=image[1])
    ids = {label: label for label in spec.labels} if meaning is None else meaning
    label_map, faults = convert_labels(label_file, stored[0], ids)
    problems += faults
    if label_map is not None:
        problems += organ_problems(label_file, label_map, spec)
    if image is None or label_map is None:
        return None, problems
    return RawVolume(image[0], label_map, image[1]), problems


def _read(path: Path, problems: list[str]) -> tuple[np.ndarray, Geometry] | None:
    try:
        return read_nifti(path)
    except UserError as error:
        problems.append(str(error))
        return None
