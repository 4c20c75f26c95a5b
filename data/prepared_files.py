"""Read the files of prepared scans, and check that they belong together.

The only reader of prepared volumes; `dataloaders.prepared_scans` converts what it returns to network input.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data.label_maps import format_value, to_label_ids
from data.layout import DatasetLayout
from data.processes import usable_cores
from util.errors import UserError, shorten_list
from util.io.grids import orient_like_majority, orientation, reorient_to_grid, slice_axis
from util.io.image_io import Geometry, read_geometry, read_volume
from util.io.json_files import read_json

CASES_NAME = "cases.json"
_MAX_THREADS = 8
_MAX_ID = np.iinfo(np.int32).max

Result = TypeVar("Result")


@dataclass(frozen=True)
class CaseNames:
    """The scans of a download, by `CASES_NAME`.

    Attributes:
        dataset: its name.
        scans: id -> name.
    """

    dataset: str
    scans: dict[int, str]


@dataclass(frozen=True, eq=False)
class PreparedFiles:
    """Voxels of one prepared scan, as its files store them.

    Attributes:
        image: `(Z, H, W)`, in the file's dtype, finite; None if not requested.
        geometry: of all three.
        label_map: `(Z, H, W)` uint8 label ids, 0 = background; None if not requested or without a file.
        supervoxels: `(Z, H, W)` int32, 0 = outside the body; None if not requested or without a file.
    """

    image: np.ndarray | None
    geometry: Geometry
    label_map: np.ndarray | None
    supervoxels: np.ndarray | None


def read_prepared_files(
    layout: DatasetLayout,
    scan_id: int,
    *,
    with_image: bool = True,
    with_labels: bool = True,
    with_supervoxels: bool = True,
) -> PreparedFiles:
    """Read a scan's image, and its labels and supervoxels if their files exist.

    Args:
        layout: paths of the files.
        scan_id: the scan.
        with_image: read the image's voxels, not just its header.
        with_labels: read the label map, whose grid must be the image's, but for order and direction of axes.
        with_supervoxels: read the supervoxels, whose shape must be the image's.

    Raises:
        UserError: a file is damaged, grids differ, a label is unknown, or supervoxel ids are invalid.
    """
    path = layout.image_path(scan_id)
    image, geometry = read_volume(path) if with_image else (None, read_geometry(path))
    label_map = supervoxels = None
    if with_labels and layout.label_path(scan_id).is_file():
        label_map = _read_label_map(layout, scan_id, geometry)
    if with_supervoxels and layout.supervoxel_path(scan_id).is_file():
        supervoxels = read_supervoxels(layout, scan_id, geometry)
    return PreparedFiles(image, geometry, label_map, supervoxels)


def _read_label_map(layout: DatasetLayout, scan_id: int, geometry: Geometry) -> np.ndarray:
    path = layout.label_path(scan_id)
    voxels, label_geometry = reorient_to_grid(*read_volume(path), geometry)
    if not label_geometry.same_grid(geometry):
        label_grid, image_grid = (
            str(grid.shape) if label_geometry.shape != geometry.shape else f"({_describe_grid(grid)})"
            for grid in (label_geometry, geometry)
        )
        raise UserError(
            f"{path}: label grid {label_grid} differs from image grid {image_grid}; re-run preparation "
            f"for scan {scan_id}"
        )
    return to_label_ids(voxels, layout.spec, path=path)


def read_supervoxels(layout: DatasetLayout, scan_id: int, geometry: Geometry) -> np.ndarray:
    """Read a scan's supervoxels, which must have the image's shape.

    Spacing and origin are not compared, because some tools omit them.

    Returns:
        `(Z, H, W)` int32, 0 = outside the body.

    Raises:
        UserError: the file is missing or damaged, shapes differ, or ids are not whole numbers of 0 or more.
    """
    path = layout.supervoxel_path(scan_id)
    voxels, supervoxel_geometry = read_volume(path, needs_orientation=False)
    if supervoxel_geometry.shape != geometry.shape:
        raise UserError(
            f"{path}: supervoxel grid {supervoxel_geometry.shape} differs from image grid {geometry.shape}; "
            "delete the file to have it rebuilt"
        )
    low, high = voxels.min(), voxels.max()
    if low < 0 or high > _MAX_ID:
        raise UserError(f"{path}: ids must lie in 0..{_MAX_ID}, got {low:g}..{high:g}; rebuild the file")
    ids = voxels.astype(np.int32)
    if voxels.dtype.kind == "f" and not np.array_equal(ids, voxels):
        first = format_value(voxels[ids != voxels][0])
        raise UserError(f"{path}: ids must be whole numbers, got {first}; resample it to the nearest voxel")
    return ids


def check_axes(layout: DatasetLayout, scan_ids: Iterable[int]) -> None:
    """Check that the volumes of a dataset are stored in one orientation.

    A custom dataset whose scans are not reoriented to one slice axis has one orientation per slice axis.

    Raises:
        UserError: a scan's orientation differs from that of most others, or a header is damaged.
    """
    stacks: dict[str, dict[int, Geometry]] = {}
    for scan_id in scan_ids:
        geometry = read_geometry(layout.image_path(scan_id))
        stack = slice_axis(geometry) if layout.spec.keeps_slice_axes else ""
        stacks.setdefault(stack, {})[scan_id] = geometry
    orientations, expected = {}, {}
    for grids in stacks.values():
        orientations |= {scan_id: orientation(grid) for scan_id, grid in grids.items()}
        expected |= orient_like_majority(grids)
    deviating = sorted(scan_id for scan_id, letters in orientations.items() if expected[scan_id] != letters)
    if deviating:
        first, *further = deviating
        suffix = f" (also scans {shorten_list(further)})" if further else ""
        raise UserError(
            f"{layout.image_path(first)}: orientation must be {expected[first]} as of most scans, got "
            f"{orientations[first]}{suffix}; prepare the dataset again, or flip image and labels with their "
            "headers"
        )


def map_scans(
    function: Callable[[int], Result], layout: DatasetLayout, *, n_workers: int | None = None
) -> list[Result]:
    """Call a function on the id of each scan, in threads.

    Decompression, sorting and hashing release the GIL, and starting processes would take longer than reading
    most datasets.

    Args:
        function: takes a scan id; must be thread-safe.
        layout: of the dataset.
        n_workers: threads; by default one per usable core, at most eight. Each holds one scan.

    Returns:
        The results, in the order of the ids.

    Raises:
        UserError: there is no scan. What `function` raises is passed on.
    """
    scan_ids = layout.scan_ids()
    pool = ThreadPoolExecutor(n_workers or min(usable_cores(), _MAX_THREADS))
    try:
        return list(pool.map(function, scan_ids))
    finally:
        pool.shutdown(cancel_futures=True)


def read_case_names(layout: DatasetLayout) -> dict[int, str]:
    """Read scan id -> name in the download; empty if unknown."""
    cases = read_json(layout.data_dir / CASES_NAME, CaseNames)
    return cases.scans if cases is not None and cases.dataset == layout.spec.name else {}


def _describe_grid(geometry: Geometry) -> str:
    parts = {"spacing": geometry.spacing_mm, "origin": geometry.origin_mm, "direction": geometry.direction}
    return ", ".join(f"{name} {[round(float(x), 3) for x in numbers]}" for name, numbers in parts.items())
