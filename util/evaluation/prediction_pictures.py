"""Pictures of a segmented scan: slices with the outlines of its labels."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from util.io.grids import reorient_volume
from util.io.image_io import Geometry
from util.io.slice_pictures import (
    display_spacing_mm,
    encode_slice,
    find_window,
    outline_path,
    stack_transform,
)

MAX_PICTURES = 4
_ID_LENGTH = 12


@dataclass(frozen=True)
class OutlinedSlice:
    """A displayed slice with outlines.

    Attributes:
        image, size_px, spacing_mm, window: as of `report_cases.View`.
        slice_idx: position along the scan's slice axis, in the file's order.
        outlines: label -> SVG path.
    """

    image: str
    size_px: tuple[int, int]
    spacing_mm: tuple[float, float]
    window: tuple[int, int, int, int]
    slice_idx: int
    outlines: Mapping[int, str]


@dataclass(frozen=True)
class ScanPictures:
    """What a page shows of one scan.

    Attributes:
        slices: with each label's largest section, in the order of the slices; the middle slice if no label
            was found.
        main: position in `slices` of the one with most labelled voxels.
        images: id -> data URI.
    """

    slices: tuple[OutlinedSlice, ...]
    main: int
    images: Mapping[str, str]


def picture_scan(
    image: np.ndarray, label_map: np.ndarray, geometry: Geometry, *, labels: Collection[int]
) -> ScanPictures:
    """Make the pictures of a scan.

    Args:
        image: `(Z, h, w)`, any real dtype; its slices may have another size than the label map's.
        label_map: `(Z, H, W)`, ids.
        geometry: of the label map.
        labels: ids to outline.
    """
    transform = stack_transform(geometry)
    image, label_map = (reorient_volume(volume, transform) for volume in (image, label_map))
    spacing_mm = display_spacing_mm(geometry, transform)
    areas = {label: (label_map == label).sum(axis=(1, 2)) for label in labels}
    indices = _choose_slices(areas, n_slices=len(label_map))
    window = find_window(np.isin(label_map, list(labels)).any(axis=0))
    slices, images = [], {}
    for slice_idx in indices:
        data = encode_slice(image[slice_idx])
        key = hashlib.sha256(data.encode()).hexdigest()[:_ID_LENGTH]
        images[key] = data
        outlines = {label: outline_path(label_map[slice_idx] == label) for label in labels}
        outlines = {label: path for label, path in outlines.items() if path}
        size_px = label_map.shape[1:]
        slices.append(OutlinedSlice(key, size_px, spacing_mm, window, int(slice_idx), outlines))
    n_labelled = [sum(int(area[slice_idx]) for area in areas.values()) for slice_idx in indices]
    return ScanPictures(tuple(slices), int(np.argmax(n_labelled)), images)


def _choose_slices(areas: Mapping[int, np.ndarray], *, n_slices: int) -> list[int]:
    """Choose the largest section of each label, those of the largest labels first."""
    by_area = sorted((area for area in areas.values() if area.any()), key=lambda area: -int(area.sum()))
    largest = list(dict.fromkeys(int(area.argmax()) for area in by_area))[:MAX_PICTURES]
    return sorted(largest) or [n_slices // 2]
