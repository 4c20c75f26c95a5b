"""Pair, read and check scans that consist of a NIfTI image and a NIfTI label map."""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data.label_maps import to_label_ids
from data.raw.listing import list_files
from data.raw.raw_scans import Inspection, RawScan, RawVolume
from data.raw.scan_checks import grid_problems, image_problems, organ_problems
from data.specs import DatasetSpec
from util.errors import UserError
from util.io.grids import reorient_to_grid
from util.io.image_io import Geometry, read_raw_geometry, read_raw_volume

_Key = TypeVar("_Key", bound=Hashable)


def find_pairs(
    root: Path, image: str, label: str, *, expected: str
) -> tuple[dict[int, Path], dict[int, Path], list[str]]:
    """Find numbered images and label maps below a folder.

    Args:
        root: the folder.
        image, label: patterns of file names without extension; their group is the scan's number.
        expected: the files that should be there, for the message.

    Returns:
        The image of each number, the label map of each number, and the problems, one line each.

    Raises:
        UserError: there are no images, or no labels.
    """
    files = list_files(root)
    images, image_faults = group_files(files, lambda path: _number(image, path))
    labels, label_faults = group_files(files, lambda path: _number(label, path))
    if not images or not labels:
        raise UserError(
            f"{root}: must hold {expected}, got {len(images)} image(s) and {len(labels)} label file(s); give "
            "the folder above both"
        )
    return images, labels, [*image_faults, *label_faults, *labels_without_image(images, labels)]


def _number(pattern: str, path: Path) -> int | None:
    match = re.fullmatch(rf"{pattern}\.nii(\.gz)?", path.name, re.IGNORECASE)
    return int(match[1]) if match else None


def group_files(
    files: Iterable[Path], key_of: Callable[[Path], _Key | None]
) -> tuple[dict[_Key, Path], list[str]]:
    """Map each scan's key to its file.

    Args:
        files: all that were found.
        key_of: the key of a file's scan; None for an unrelated file.

    Returns:
        The first file of each key, and one problem for each duplicate.
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
    """List label maps without an image, one problem each."""
    return [
        f"{path}: must have an image of scan {key}, found none; add the image or take the labels out"
        for key, path in labels.items()
        if key not in images
    ]


def make_scan(scan_id: int, name: str, *, image: Path, label: Path | None) -> RawScan:
    """Make a scan of an image and its label map, if any."""
    return RawScan(scan_id, name, (image,), () if label is None else (label,))


def orient_scans(
    scans: Iterable[RawScan], choose: Callable[[dict[int, Geometry]], Mapping[int, str]], **reading: Any
) -> tuple[RawScan, ...]:
    """Set the orientation that each scan is transformed to.

    Args:
        scans: with one image file each.
        choose: maps the images' geometries to orientations, both by scan id.
        reading: see `read_raw_geometry`.

    Returns:
        The scans; without an orientation if the image's header is unreadable, which inspection reports.
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
    """Read a scan's image and label map, and list their problems.

    The label map's axes may be in another order or direction than the image's.

    Args:
        scan: with one image file and at most one label file.
        spec: the dataset.
        needs_labels: report a scan without labels.
        assume_orientation: see `read_raw_volume`.

    Returns:
        The volume, or None if a file is unusable; and the problems, one line each.
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
    voxels, geometry = stored
    if image is not None:
        voxels, geometry = reorient_to_grid(voxels, geometry, image[1])
        problems += grid_problems(label_file, geometry, image_file=image_file, image=image[1])
    try:
        label_map = to_label_ids(voxels, spec, path=label_file, is_raw=True)
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
