"""Scans that are a NIfTI image and a NIfTI label map each: pair, read, check."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data.label_maps import to_label_ids
from data.raw.raw_scans import Inspection, RawScan, RawVolume
from data.raw.scan_checks import grid_problems, image_problems, organ_problems
from data.specs import DatasetSpec
from util.errors import UserError
from util.io.image_io import Geometry, read_raw_geometry, read_raw_volume

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


def labels_without_image(images: Mapping[_Key, Path], labels: Mapping[_Key, Path]) -> list[str]:
    """List the label maps that have no image, one problem each."""
    return [
        f"{path}: must have an image of scan {key}, found none; add the image or take the labels out"
        for key, path in labels.items()
        if key not in images
    ]


def make_scan(scan_id: int, name: str, *, image: Path, label: Path | None) -> RawScan:
    """Make a scan of an image and its label map."""
    return RawScan(scan_id, name, (image,), () if label is None else (label,))


def orient_scans(
    scans: Iterable[RawScan], choose: Callable[[dict[int, Geometry]], Mapping[int, str]], **reading: Any
) -> tuple[RawScan, ...]:
    """Give each scan the orientation that its axes are turned to.

    Args:
        scans: one image file each.
        choose: takes the images' geometries and returns orientations, both by scan id.
        reading: see `read_raw_geometry`.

    Returns:
        The scans; without an orientation where the image's header cannot be read, which inspection reports.
    """
    scans, geometries = tuple(scans), {}
    for scan in scans:
        with suppress(UserError):
            geometries[scan.scan_id] = read_raw_geometry(scan.image_files[0], **reading)
    orientations = choose(geometries)
    return tuple(replace(scan, orientation=orientations.get(scan.scan_id)) for scan in scans)


def inspect_pair(
    scan: RawScan, spec: DatasetSpec, *, needs_labels: bool = True, assume_orientation: str | None = None
) -> Inspection:
    """Read a scan's image and label map, and list all that is wrong with them.

    Args:
        scan: one image file, and one label file or none.
        spec: the dataset.
        needs_labels: a scan without labels is a problem.
        assume_orientation: see `read_raw_volume`.

    Returns:
        The volume, or None where a file cannot be used; and the problems, one line each.
    """
    (image_file,), problems = scan.image_files, []
    read = partial(_read, assume_orientation=assume_orientation, problems=problems)
    image = read(image_file)
    if image is not None:
        problems += image_problems(image_file, image[0])
    if not scan.label_files:
        if needs_labels:
            missing = f"{image_file}: must have a label file, found none of {scan.name}"
            problems.append(f"{missing}; add it or take the image out")
        return None if image is None else RawVolume(image[0], None, image[1]), problems
    (label_file,) = scan.label_files
    stored = read(label_file)
    if stored is None:
        return None, problems
    if image is not None:
        problems += grid_problems(label_file, stored[1], image_file=image_file, image=image[1])
    try:
        label_map = to_label_ids(stored[0], spec, path=label_file, is_raw=True)
    except UserError as error:
        return None, [*problems, str(error)]
    problems += organ_problems(label_file, label_map, spec)
    return None if image is None else RawVolume(image[0], label_map, image[1]), problems


def _read(
    path: Path, *, assume_orientation: str | None, problems: list[str]
) -> tuple[np.ndarray, Geometry] | None:
    try:
        return read_raw_volume(path, assume_orientation=assume_orientation)
    except UserError as error:
        problems.append(str(error))
        return None
