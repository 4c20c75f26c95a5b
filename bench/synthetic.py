"""Synthetic scans of realistic size, for benchmarks without data."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from data.datasets import find_spec
from data.layout import DatasetLayout
from dataloaders.prepared_scans import PreparedScan
from util.io.image_io import Geometry, write_volume

SHAPE = (36, 256, 256)
SPACING_MM = (7.7, 1.25, 1.25)  # typical of CHAOS T2


def make_volume(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Make noisy smooth blobs separated by air, int16 `(Z, H, W)`."""
    noise = np.random.default_rng(seed).standard_normal((2, *shape), dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise[0], (1.0, 8.0, 8.0))
    levels = 400.0 * np.maximum(smooth / smooth.std() + 0.1 * noise[1], -0.5)
    return np.rint(levels).astype(np.int16)


def make_scans(n_scans: int, shape: tuple[int, int, int] = SHAPE) -> list[PreparedScan]:
    """Make scans of noise with boxes as supervoxels, in memory."""
    generator = np.random.default_rng(0)
    boxes, geometry = _make_boxes(shape), _make_geometry(shape)
    images = [generator.standard_normal(shape, dtype=np.float32) for _ in range(n_scans)]
    return [PreparedScan(i, image, None, boxes.copy(), geometry) for i, image in enumerate(images)]


def chaost2_layout(data_dir: Path, supervoxel_dir: Path | None = None) -> DatasetLayout:
    """Return the layout of CHAOST2, by default with all files in one folder."""
    spec = find_spec("CHAOST2")
    return DatasetLayout(spec, data_dir, supervoxel_dir or data_dir, spec.supervoxel_min_vox)


def write_dataset(folder: Path, n_scans: int, *, with_supervoxels: bool) -> None:
    """Write a prepared CHAOST2 of up to four different volumes.

    Supervoxels are boxes, which are treated like supervoxels from an external source; so are the organs, each
    of which every scan must show.
    """
    layout, geometry = chaost2_layout(folder), _make_geometry(SHAPE)
    volumes = [make_volume(seed) for seed in range(min(n_scans, 4))]
    boxes = _make_boxes(SHAPE)
    labels = (boxes % 5).astype(np.int16)  # four organs
    for scan_id in range(n_scans):
        write_volume(layout.image_path(scan_id), volumes[scan_id % len(volumes)], geometry)
        write_volume(layout.label_path(scan_id), labels, geometry)
        if with_supervoxels:
            write_volume(layout.supervoxel_path(scan_id), boxes, geometry)


def _make_geometry(shape: tuple[int, int, int]) -> Geometry:
    return Geometry(shape, SPACING_MM, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def _make_boxes(shape: tuple[int, int, int]) -> np.ndarray:
    """Make supervoxels, int32 `(Z, H, W)`: boxes of 9 x 64 x 64 within an ellipse."""
    height, width = shape[1:]
    z, y, x = np.ogrid[: shape[0], :height, :width]
    body = ((y - height / 2) / (0.4 * height)) ** 2 + ((x - width / 2) / (0.47 * width)) ** 2 < 1
    n_rows, n_columns = -(-height // 64), -(-width // 64)
    boxes = 1 + ((z // 9) * n_rows + y // 64) * n_columns + x // 64
    return np.where(body, boxes, 0).astype(np.int32)
