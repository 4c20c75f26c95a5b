"""Metrics of two masks, read off their definitions; slow, and without the code of `util.evaluation`.

The surface of a mask has an element at each corner where eight voxels meet that are not all equal. Its area
is that of the marching cube between these voxels' centres; a cube and its complement may be triangulated in
two ways, of which the smaller counts.
"""

import itertools

import numpy as np
from scipy.spatial.distance import cdist
from skimage.measure import marching_cubes, mesh_surface_area


def measure_plainly(predicted, true, *, spacing_mm, tolerance_mm):
    """Measure two masks `(Z, H, W)` of a whole scan, the true one not empty; by the names in `scores.csv`."""
    n_both, n_predicted, n_true = (predicted & true).sum(), predicted.sum(), true.sum()
    voxel_ml = np.prod(spacing_mm) / 1000
    result = {
        "dice": 2 * n_both / (n_predicted + n_true),
        "iou": n_both / (predicted | true).sum(),
        "precision": n_both / n_predicted if n_predicted else 0,
        "recall": n_both / n_true,
        "true_ml": n_true * voxel_ml,
        "predicted_ml": n_predicted * voxel_ml,
        "volume_error_ml": (n_predicted - n_true) * voxel_ml,
        "volume_error_percent": 100 * (n_predicted / n_true - 1),
    }
    if not n_predicted:
        diagonal_mm = np.sqrt(np.square(np.multiply(true.shape, spacing_mm)).sum())
        return result | {"nsd": 0, "hd95_mm": diagonal_mm, "assd_mm": diagonal_mm}
    (corners, areas), (true_corners, true_areas) = (
        list_surface(mask, spacing_mm) for mask in (predicted, true)
    )
    between = cdist(corners, true_corners)
    distances, true_distances = between.min(axis=1), between.min(axis=0)
    every_distance = np.concatenate([distances, true_distances])
    every_area = np.concatenate([areas, true_areas])
    return result | {
        "nsd": every_area[every_distance <= tolerance_mm].sum() / every_area.sum(),
        "hd95_mm": max(percentile_95(distances, areas), percentile_95(true_distances, true_areas)),
        "assd_mm": (every_distance * every_area).sum() / every_area.sum(),
    }


def list_surface(mask, spacing_mm):
    """List position in mm and area in mm2 of a mask's surface elements."""
    padded = np.pad(mask, 1)
    around = np.lib.stride_tricks.sliding_window_view(padded, (2, 2, 2))
    is_mixed = around.any(axis=(3, 4, 5)) & ~around.all(axis=(3, 4, 5))
    known = {}
    areas = []
    for cube in around[is_mixed]:
        key = cube.tobytes()
        if key not in known:
            known[key] = min(cube_area(cube, spacing_mm), cube_area(~cube, spacing_mm))
        areas.append(known[key])
    return np.argwhere(is_mixed) * np.array(spacing_mm), np.array(areas)


def cube_area(cube, spacing_mm):
    """Return the area of the marching cube of eight voxels."""
    vertices, faces, _, _ = marching_cubes(
        cube.astype(np.float32), 0.5, spacing=tuple(spacing_mm), method="lorensen"
    )
    return mesh_surface_area(vertices, faces)


def percentile_95(distances, areas):
    """Return the smallest distance within which 95 % of the area lie."""
    for distance in np.unique(distances):
        if areas[distances <= distance].sum() >= (0.95 - 1e-9) * areas.sum():
            return distance
    raise AssertionError("unreachable: the largest distance holds all")


def bootstrap_of_two(first, second):
    """Return the percentile bootstrap interval of the mean of two values, at 95 %.

    A quarter of the resamples hold the first twice, and a quarter the second twice, which is more than the
    tails' 2.5 %.
    """
    return min(first, second), max(first, second)


def organ_means(values):
    """Average values by scan and organ over the organs of each scan: scan -> mean.

    Every scan must have all organs.
    """
    organs = {organ for _, organ in values}
    scans = {scan for scan, _ in values}
    assert set(itertools.product(scans, organs)) == set(values)
    return {scan: np.mean([values[scan, organ] for organ in organs]) for scan in scans}
