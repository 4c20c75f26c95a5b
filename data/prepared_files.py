"""Read a prepared scan's files and check that they belong together."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.layout import DatasetLayout
from data.processes import usable_cores
from util.errors import UserError
from util.image_io import Geometry, read_volume

CASES_NAME = "cases.json"
_MOST_THREADS = 8
_LARGEST_ID = np.iinfo(np.int32).max

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class PreparedFiles:
    """What the files of one prepared scan hold, unchanged.

    Attributes:
        image: `(Z, H, W)`, in the file's dtype. All finite.
        geometry: of all three.
        label_map: `(Z, H, W)` int32, 0 = background; None where there is no file.
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

    Labels must lie on the image's grid in the patient; of supervoxels only the shape counts, because some
    tools write them without spacing and origin.

    Raises:
        UserError: a file is missing or damaged, grids differ, or ids are not whole numbers of 0 or more.
    """
    path = layout.image_path(scan_id)
    image, geometry = read_volume(path)
    label_map = supervoxels = None
    path = layout.label_path(scan_id)
    if path.is_file():
        label_map, found = read_volume(path)
        if not found.same_grid(geometry):
            what = "grid" if found.shape != geometry.shape else "place of the grid"
            raise UserError(
                f"{path}: {what} {_described(found, geometry)} differs from the image's "
                f"{_described(geometry, found)}; re-run preparation for scan {scan_id}"
            )
        label_map = _ids(label_map, path)
    path = layout.supervoxel_path(scan_id)
    if with_supervoxels and path.is_file():
        supervoxels, found = read_volume(path)
        if found.shape != geometry.shape:
            raise UserError(
                f"{path}: supervoxel grid {found.shape} differs from image grid {geometry.shape}; "
                "delete the file to have it made anew"
            )
        supervoxels = _ids(supervoxels, path)
    return PreparedFiles(image, geometry, label_map, supervoxels)


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


def _described(geometry: Geometry, other: Geometry) -> str:
    """Name what differs from another grid."""
    if geometry.shape != other.shape:
        return str(geometry.shape)
    parts = {"spacing": "spacing_mm", "origin": "origin_mm", "direction": "direction"}
    return ", ".join(
        f"{word} {[round(float(x), 3) for x in getattr(geometry, name)]}"
        for word, name in parts.items()
        if not np.allclose(getattr(geometry, name), getattr(other, name), atol=1e-3)
    )


def _ids(voxels: np.ndarray, path: Path) -> np.ndarray:
    low, high = voxels.min(), voxels.max()
    if low < 0 or high > _LARGEST_ID:
        raise UserError(
            f"{path}: ids must lie in 0..{_LARGEST_ID}, got {low:g}..{high:g}; make the file again"
        )
    whole = voxels.astype(np.int32)
    if np.issubdtype(voxels.dtype, np.floating) and not np.array_equal(whole, voxels):
        first = voxels[whole != voxels][0]
        raise UserError(f"{path}: ids must be whole numbers, got {first:g}; make the file again")
    return whole
