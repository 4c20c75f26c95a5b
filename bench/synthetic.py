"""Make scans of a realistic size, for measurements that need no data."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from data.datasets import find_spec
from data.layout import DatasetLayout
from dataloaders.prepared_scans import PreparedScan
from util.io.image_io import Geometry, write_volume

SHAPE = (36, 256, 256)
SPACING_MM = (7.7, 1.25, 1.25)


def geometry_of(shape: tuple[int, int, int]) -> Geometry:
    """Return a plain grid of CHAOS T2's spacing."""
    return Geometry(shape, SPACING_MM, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def make_volume(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Make noisy smooth blobs in whole grey levels, air between, `(Z, H, W)` int16."""
    noise = np.random.default_rng(seed).standard_normal((2, *shape), dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise[0], (1.0, 8.0, 8.0))
    levels = 400.0 * np.maximum(smooth / smooth.std() + 0.1 * noise[1], -0.5)
    return np.rint(levels).astype(np.int16)


def make_boxes(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Make supervoxels `(Z, H, W)`, int32: boxes of 9 x 64 x 64 in an ellipse."""
    height, width = shape[1:]
    z, y, x = np.ogrid[: shape[0], :height, :width]
    body = ((y - height / 2) / (0.4 * height)) ** 2 + ((x - width / 2) / (0.47 * width)) ** 2 < 1
    n_rows, n_columns = -(-height // 64), -(-width // 64)
    boxes = 1 + ((z // 9) * n_rows + y // 64) * n_columns + x // 64
    return np.where(body, boxes, 0).astype(np.int32)


def make_scans(n_scans: int, shape: tuple[int, int, int] = SHAPE) -> list[PreparedScan]:
    """Make noisy scans with boxes as supervoxels, in memory."""
    generator = np.random.default_rng(0)
    boxes = make_boxes(shape)
    return [
        PreparedScan(
            scan_id,
            generator.standard_normal(shape, dtype=np.float32),
            None,
            boxes.copy(),
            geometry_of(shape),
        )
        for scan_id in range(n_scans)
    ]


def write_dataset(
    folder: Path, n_scans: int, *, shape: tuple[int, int, int] = SHAPE, with_supervoxels: bool
) -> DatasetLayout:
    """Write scans as a prepared CHAOST2: a few volumes in turn, empty label maps.

    Supervoxels are boxes, and pass for somebody else's files.
    """
    spec = find_spec("CHAOST2")
    layout = DatasetLayout(
        spec, data_dir=folder, supervoxel_dir=folder, supervoxel_min_vox=spec.supervoxel_min_vox
    )
    geometry = geometry_of(shape)
    volumes = [make_volume(seed, shape) for seed in range(min(n_scans, 4))]
    boxes, labels = make_boxes(shape), np.zeros(shape, dtype=np.int16)
    for scan_id in range(n_scans):
        write_volume(layout.image_path(scan_id), volumes[scan_id % len(volumes)], geometry)
        write_volume(layout.label_path(scan_id), labels, geometry)
        if with_supervoxels:
            write_volume(layout.supervoxel_path(scan_id), boxes, geometry)
    return layout
