"""Load prepared scans as network input, on one checked grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from data.layout import DatasetLayout
from data.prepared_files import read_prepared_files, read_supervoxels
from data.supervoxels.supervoxel_records import supervoxel_record_path
from util.errors import UserError
from util.io.image_io import Geometry


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """One scan as episodes and evaluation use it.

    Attributes:
        scan_id: the number in the file names.
        image: `(Z, H, W)` float32, mean 0 and standard deviation 1 over this array; `(Z, 0, 0)` if not
            requested.
        label_map: `(Z, H, W)` int16 label ids, 0 = background; None if not requested.
        supervoxels: `(Z, H, W)` int32, 0 = outside the body; None if not requested.
        geometry: the image file's grid, also after an in-plane resize: predictions are restored to it.
        more_supervoxels: additional sets, such as those of another minimum size, each as `supervoxels`; a
            set costs 4 bytes per voxel, 9 MB for 36 x 256 x 256.
        full_size_label_map: the label map on the file's grid; `label_map` itself without a resize.
    """

    scan_id: int
    image: np.ndarray
    label_map: np.ndarray | None
    supervoxels: np.ndarray | None
    geometry: Geometry
    more_supervoxels: tuple[np.ndarray, ...] = ()
    full_size_label_map: np.ndarray | None = None


def load_scan(
    layout: DatasetLayout,
    scan_id: int,
    *,
    with_image: bool = True,
    with_labels: bool = False,
    with_supervoxels: bool = False,
    more_supervoxels: Sequence[DatasetLayout] = (),
    image_size_px: tuple[int, int] | None = None,
) -> PreparedScan:
    """Load one scan and check that its volumes belong together.

    Args:
        layout: paths of the files.
        scan_id: the scan.
        with_image: read the image's voxels, not just its header.
        with_labels: read the label map.
        with_supervoxels: read the supervoxels and the additional sets.
        more_supervoxels: layouts of additional sets, such as `replace(layout, supervoxel_min_vox=1000)`; only
            their supervoxel files are read.
        image_size_px: `(H, W)` to resize every slice to (see `resize_in_plane`); None keeps the file's size.
            The image is z-scored afterwards, so that the result has mean 0 and standard deviation 1.

    Raises:
        UserError: a file is missing or damaged, grids differ, the image is constant or not finite, labels or
            supervoxels are not whole numbers in range, or supervoxels are below the minimum size.
    """
    image_path = layout.image_path(scan_id)
    files = read_prepared_files(
        layout, scan_id, with_image=with_image, with_labels=with_labels, with_supervoxels=False
    )
    image = np.empty((files.geometry.shape[0], 0, 0), np.float32)
    if with_image:
        image = normalise_slices(files.image, image_size_px, source=image_path)
    label_map = full_size_label_map = None
    if with_labels:
        if files.label_map is None:
            path = layout.label_path(scan_id)
            raise UserError(f"{path}: no such label file; evaluation, setting 2 and use_gt need labels")
        full_size_label_map = files.label_map.astype(np.int16)
        label_map = resize_in_plane(full_size_label_map, image_size_px)
    sets = [
        resize_in_plane(_read_supervoxels(folder, scan_id, files.geometry), image_size_px)
        for folder in ((layout, *more_supervoxels) if with_supervoxels else ())
    ]
    return PreparedScan(
        scan_id,
        image,
        label_map,
        supervoxels=sets[0] if sets else None,
        geometry=files.geometry,
        more_supervoxels=tuple(sets[1:]),
        full_size_label_map=full_size_label_map,
    )


def normalise_slices(
    voxels: np.ndarray, image_size_px: tuple[int, int] | None, *, source: Path | str
) -> np.ndarray:
    """Resize a prepared image in plane, and z-score it over the volume.

    Args:
        voxels: `(Z, H, W)`, any real dtype.
        image_size_px: see `resize_in_plane`.
        source: its file or name, for messages.

    Returns:
        float32, mean 0 and standard deviation 1 after the resize.

    Raises:
        UserError: the image is constant or not finite.
    """
    return _z_score(resize_in_plane(_finite_float32(voxels, source), image_size_px), source)


def load_scans(
    layout: DatasetLayout,
    scan_ids: Sequence[int],
    *,
    progress: bool = True,
    **options: Any,
) -> list[PreparedScan]:
    """Load several scans in order; options and errors are those of `load_scan`."""
    desc = f"load {layout.spec.name}"
    # Closed by `with`, so that an error message starts on a clean line.
    with tqdm(scan_ids, desc=desc, unit="scan", disable=not progress, leave=False) as bar:
        return [load_scan(layout, scan_id, **options) for scan_id in bar]


def resize_scan(scan: PreparedScan, size_px: tuple[int, int]) -> PreparedScan:
    """Return a scan with slices of another size; see `resize_in_plane`.

    Args:
        scan: with its image; unchanged.
        size_px: `(H, W)`.
    """
    image = normalise_slices(scan.image, size_px, source=f"scan {scan.scan_id}")
    label_map, supervoxels, *further = (
        None if volume is None else resize_in_plane(volume, size_px)
        for volume in (scan.label_map, scan.supervoxels, *scan.more_supervoxels)
    )
    return replace(
        scan, image=image, label_map=label_map, supervoxels=supervoxels, more_supervoxels=tuple(further)
    )


def resize_in_plane(volume: np.ndarray, size_px: tuple[int, int] | None) -> np.ndarray:
    """Resize every slice, images by area or linearly, integers by the nearest pixel.

    Both conventions align pixel areas (not corner pixels), so that an image and its labels stay registered.

    Args:
        volume: `(Z, H, W)`, float32 or an integer type.
        size_px: the new `(H, W)`; None, or the present size, returns `volume` itself.

    Returns:
        `(Z, *size_px)` of the same dtype. Floating point values are averaged over pixel areas if neither
        axis grows, and interpolated linearly otherwise.

    Raises:
        UserError: `size_px` is not two whole numbers of at least 1.
    """
    if size_px is None:
        return volume
    if len(size_px) != 2 or any(not isinstance(n, int | np.integer) or n < 1 for n in size_px):
        raise UserError(f"image_size_px={size_px}: must be two whole numbers (height, width) of at least 1")
    old_height, old_width = volume.shape[1:]
    height, width = size_px
    if (height, width) == (old_height, old_width):
        return volume
    if np.issubdtype(volume.dtype, np.floating):
        shrinks = height <= old_height and width <= old_width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        # Python integers: cv2 does not take NumPy's.
        target = (int(width), int(height))
        return np.stack([cv2.resize(image, target, interpolation=method) for image in volume])
    rows = _nearest_positions(old_height, height)
    columns = _nearest_positions(old_width, width)
    return volume[:, rows[:, None], columns[None, :]]


def _nearest_positions(old_length: int, new_length: int) -> np.ndarray:
    centres = (np.arange(new_length) + 0.5) * (old_length / new_length)
    return np.minimum(centres.astype(np.intp), old_length - 1)


def _finite_float32(voxels: np.ndarray, path: Path | str) -> np.ndarray:
    # Values beyond float32 become infinite and are reported below.
    with np.errstate(over="ignore"):
        volume = voxels.astype(np.float32)
    n_bad = volume.size - np.count_nonzero(np.isfinite(volume))
    if n_bad:
        raise UserError(f"{path}: image must be finite, got {n_bad} NaN or infinite voxels; prepare it again")
    return volume


def _z_score(image: np.ndarray, path: Path | str) -> np.ndarray:
    # float64 sums: float32 ones lose digits over millions of voxels with a large mean.
    mean, deviation = image.mean(dtype=np.float64), image.std(dtype=np.float64)
    # A constant float32 volume may show rounding noise instead of exactly 0.
    if deviation <= 1e-6 * abs(mean):
        raise UserError(f"{path}: image must vary, got {mean:g} everywhere; prepare it again")
    scored = np.empty_like(image)
    # By slice: a temporary float64 volume would fragment the heap with every scan loaded.
    for target, source in zip(scored, image, strict=True):
        target[...] = (source - mean) / deviation
    return scored


def _read_supervoxels(layout: DatasetLayout, scan_id: int, geometry: Geometry) -> np.ndarray:
    path = layout.supervoxel_path(scan_id)
    command = f"python -m data.supervoxels --dataset {layout.spec.name}"
    if layout.supervoxel_min_vox != layout.spec.supervoxel_min_vox:
        command += f" --min-size {layout.supervoxel_min_vox}"
    if not path.is_file():
        raise UserError(f"{path}: no such supervoxel file; run `{command}`")
    supervoxels = read_supervoxels(layout, scan_id, geometry)
    if not supervoxels.any():
        raise UserError(f"{path}: must hold supervoxels, got 0 everywhere; delete it and run `{command}`")
    if not supervoxel_record_path(path).exists():  # our own files have a record of their minimum size
        _check_min_size(supervoxels, layout.supervoxel_min_vox, path=path, command=command)
    return supervoxels


def _check_min_size(supervoxels: np.ndarray, min_vox: int, *, path: Path, command: str) -> None:
    """Refuse supervoxels that were made with a smaller minimum size.

    Masking by the body or dropping slices leaves supervoxels of any size, but those that do not touch the
    removed voxels (they are 26-connected) are as they were made. A larger minimum size cannot be detected.
    """
    near_cut = supervoxels == 0
    for axis in range(3):
        before = np.moveaxis(near_cut, axis, 0)
        before[[0, -1]] = True
        grown = before.copy()
        grown[1:] |= before[:-1]
        grown[:-1] |= before[1:]
        near_cut = np.moveaxis(grown, 0, axis)
    if supervoxels.max() >= supervoxels.size:  # others' ids may be too large for tables
        supervoxels = np.unique(supervoxels, return_inverse=True)[1].reshape(supervoxels.shape)
    sizes_vox = np.bincount(supervoxels.ravel())
    sizes_vox[supervoxels[near_cut]] = 0
    min_vox = min(min_vox, supervoxels.size)
    smallest = sizes_vox[sizes_vox > 0].min(initial=min_vox)
    if smallest < min_vox:
        raise UserError(
            f"{path}: supervoxels within the body must have at least {min_vox} voxels, got one of "
            f"{smallest}, made with another minimum size; move the file to that size's folder and set n_sv, "
            f"or delete it and run `{command}`"
        )
