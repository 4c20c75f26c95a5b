"""Read a prepared scan's files and check that they belong together."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data.label_maps import format_value, join_some, to_label_ids
from data.layout import DatasetLayout
from data.processes import usable_cores
from util.errors import UserError
from util.io.grids import orient_like_majority, orientation, slice_axis
from util.io.image_io import Geometry, read_geometry, read_volume

CASES_NAME = "cases.json"
_MOST_THREADS = 8
_MAX_ID = np.iinfo(np.int32).max

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class PreparedFiles:
    """What the files of one prepared scan hold, unchanged.

    Attributes:
        image: `(Z, H, W)`, in the file's dtype. All finite.
        geometry: of all three.
        label_map: `(Z, H, W)` uint8 label ids, 0 = background; None where there is no file.
        supervoxels: `(Z, H, W)` int32, 0 = outside the body; None where there is no file.
    """

    image: np.ndarray
    geometry: Geometry
    label_map: np.ndarray | None
    supervoxels: np.ndarray | None


def read_prepared_files(
    layout: DatasetLayout, scan_id: int, *, with_supervoxels: bool = True
) -> PreparedFiles:
    """Read a scan's image, and its labels and supervoxels where there are any.

    Raises:
        UserError: see `read_volume`, `read_label_map` and `read_supervoxels`.
    """
    image, geometry = read_volume(layout.image_path(scan_id))
    label_map = supervoxels = None
    if layout.label_path(scan_id).is_file():
        label_map = read_label_map(layout, scan_id, geometry)
    if with_supervoxels and layout.supervoxel_path(scan_id).is_file():
        supervoxels = read_supervoxels(layout, scan_id, geometry)
    return PreparedFiles(image, geometry, label_map, supervoxels)


def read_label_map(layout: DatasetLayout, scan_id: int, geometry: Geometry) -> np.ndarray:
    """Read a scan's labels, which must lie on the image's grid in the patient.

    Args:
        layout: where the files lie.
        scan_id: which scan.
        geometry: of its image.

    Returns:
        `(Z, H, W)` uint8, the dataset's label ids, whether the file stores these or raw ids; 0 = background.

    Raises:
        UserError: the file is missing or damaged, grids differ, or it holds a value that the dataset does not
        know.
    """
    path = layout.label_path(scan_id)
    voxels, found = read_volume(path)
    if not found.same_grid(geometry):
        described = [
            str(grid.shape) if found.shape != geometry.shape else f"({_place(grid)})"
            for grid in (found, geometry)
        ]
        raise UserError(
            f"{path}: label grid {described[0]} differs from image grid {described[1]}; re-run preparation "
            f"for scan {scan_id}"
        )
    return to_label_ids(voxels, layout.spec, path=path)


def read_supervoxels(layout: DatasetLayout, scan_id: int, geometry: Geometry) -> np.ndarray:
    """Read a scan's supervoxels, which must have the image's shape.

    Their place in the patient does not count, because some tools write them without.

    Returns:
        `(Z, H, W)` int32, 0 = outside the body.

    Raises:
        UserError: the file is missing or damaged, shapes differ, or ids are not whole numbers of 0 or more.
    """
    path = layout.supervoxel_path(scan_id)
    voxels, found = read_volume(path, needs_orientation=False)
    if found.shape != geometry.shape:
        raise UserError(
            f"{path}: supervoxel grid {found.shape} differs from image grid {geometry.shape}; "
            "delete the file to have it made again"
        )
    low, high = voxels.min(), voxels.max()
    if low < 0 or high > _MAX_ID:
        raise UserError(f"{path}: ids must lie in 0..{_MAX_ID}, got {low:g}..{high:g}; make the file again")
    ids = voxels.astype(np.int32)
    if voxels.dtype.kind == "f" and not np.array_equal(ids, voxels):
        first = format_value(voxels[ids != voxels][0])
        raise UserError(f"{path}: ids must be whole numbers, got {first}; resample it to the nearest voxel")
    return ids


def check_axes(layout: DatasetLayout, scan_ids: Iterable[int]) -> None:
    """Make sure that the volumes of a dataset are stored in one orientation.

    Own data that keep each scan's slice axis have one orientation for each such axis.

    Raises:
        UserError: a scan's axes run otherwise than those of most others; or a header is damaged.
    """
    stacks: dict[str, dict[int, Geometry]] = {}
    for scan_id in scan_ids:
        geometry = read_geometry(layout.image_path(scan_id))
        stack = slice_axis(geometry) if layout.spec.keeps_slice_axes else ""
        stacks.setdefault(stack, {})[scan_id] = geometry
    found, wanted = {}, {}
    for grids in stacks.values():
        found |= {scan_id: orientation(grid) for scan_id, grid in grids.items()}
        wanted |= orient_like_majority(grids)
    odd = sorted(scan_id for scan_id, letters in found.items() if wanted[scan_id] != letters)
    if odd:
        more = f" (and scans {join_some(list(map(str, odd[1:])))} likewise)" if odd[1:] else ""
        raise UserError(
            f"{layout.image_path(odd[0])}: axes must run to {wanted[odd[0]]} as those of most scans, got "
            f"{found[odd[0]]}{more}; prepare the dataset again, or flip image and labels with their headers"
        )


def map_scans(
    function: Callable[[int], Result], layout: DatasetLayout, *, n_workers: int | None = None
) -> list[Result]:
    """Call a function that reads a scan on the id of each.

    Threads do it: unpacking, sorting and hashing run side by side in them, and processes would take longer to
    start than most datasets to be read.

    Args:
        function: may be called by several threads at once.
        layout: of the dataset.
        n_workers: threads; by default one for each usable core, at most eight. Each holds one scan.

    Returns:
        The results, in the order of the ids.

    Raises:
        UserError: there is no scan; and what `function` raises.
    """
    scan_ids = layout.scan_ids()
    pool = ThreadPoolExecutor(n_workers or min(usable_cores(), _MOST_THREADS))
    try:
        return list(pool.map(function, scan_ids))
    finally:
        pool.shutdown(cancel_futures=True)


def read_case_names(layout: DatasetLayout) -> dict[int, str]:
    """Read what the download calls each scan.

    Returns scan id -> name; empty where no file of this dataset tells.
    """
    try:
        cases = json.loads((layout.data_dir / CASES_NAME).read_text(encoding="utf-8"))
        names = cases["scans"] if cases["dataset"] == layout.spec.name else {}
        return {int(scan_id): str(name) for scan_id, name in names.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _place(geometry: Geometry) -> str:
    parts = {"spacing": geometry.spacing_mm, "origin": geometry.origin_mm, "direction": geometry.direction}
    return ", ".join(f"{name} {[round(float(x), 3) for x in numbers]}" for name, numbers in parts.items())
