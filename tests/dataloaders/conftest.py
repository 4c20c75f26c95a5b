"""Small synthetic scans for the episode tests."""

from collections.abc import Callable

import numpy as np
import pytest

from dataloaders.prepared_scans import PreparedScan
from util.io.image_io import Geometry


@pytest.fixture
def make_scan() -> Callable[..., PreparedScan]:
    """Return a maker of scans: random image, 2 x 2 blocks of supervoxels per three slices, given labels."""

    def make(scan_id: int, *, shape=(6, 32, 32), supervoxels=None, label_map=None) -> PreparedScan:
        image = np.random.default_rng(scan_id).normal(size=shape).astype(np.float32)
        if supervoxels is None:
            z, y, x = np.indices(shape)
            supervoxels = 1 + (z // 3) * 4 + (y * 2 // shape[1]) * 2 + x * 2 // shape[2]
        geometry = Geometry(shape, (7.7, 1.25, 1.25), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
        labels = None if label_map is None else label_map.astype(np.int16)
        return PreparedScan(scan_id, image, labels, supervoxels.astype(np.int32), geometry)

    return make


@pytest.fixture
def scans(make_scan) -> list[PreparedScan]:
    """Return three scans of 32 x 32 slices, in no order."""
    return [make_scan(4), make_scan(2), make_scan(9, shape=(8, 32, 32))]
