"""Scans of an evaluation are loaded z-scored, with labels at the network's size and at full size."""

import numpy as np
import pytest
import torch

from data.datasets import find_spec
from data.layout import DatasetLayout
from dataloaders.evaluation_sets import load_evaluation_scan
from util.io.image_io import Geometry, write_volume


@pytest.fixture(name="layout")
def _layout(tmp_path):
    """A dataset of one scan, 3 slices of 8 x 6, with the liver in a corner of slice 1."""
    layout = DatasetLayout(find_spec("CHAOST2"), tmp_path, tmp_path, 5000)
    geometry = Geometry((3, 8, 6), (7.7, 1.5, 1.25), (1.0, 2.0, 3.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    image = np.random.default_rng(0).normal(100, 20, (3, 8, 6)).astype(np.float32)
    label_map = np.zeros((3, 8, 6), dtype=np.uint8)
    label_map[1, :4, :2] = 1
    write_volume(layout.image_path(4), image, geometry)
    write_volume(layout.label_path(4), label_map, geometry)
    return layout


def test_a_scan_is_loaded_z_scored_with_its_labels_and_geometry(layout):
    scan = load_evaluation_scan(layout, 4, image_size_px=None)
    assert scan.scan_id == 4
    assert scan.images.shape == (3, 1, 8, 6)
    assert scan.images.dtype == torch.float32
    assert scan.images.mean().item() == pytest.approx(0, abs=1e-5)
    assert scan.images.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert np.array_equal(scan.label_map, scan.support_labels)
    assert np.argwhere(scan.label_map == 1).max(axis=0).tolist() == [1, 3, 1]
    assert scan.geometry.spacing_mm == pytest.approx((7.7, 1.5, 1.25))


def test_only_what_the_network_sees_is_resized(layout):
    scan = load_evaluation_scan(layout, 4, image_size_px=(4, 3))
    assert scan.images.shape == (3, 1, 4, 3)
    assert scan.support_labels.shape == (3, 4, 3)
    assert np.argwhere(scan.support_labels == 1).tolist() == [[1, 0, 0], [1, 1, 0]]
    # Scores and predictions stay on the scan's own grid.
    assert scan.label_map.shape == scan.geometry.shape == (3, 8, 6)
    assert (scan.label_map == 1).sum() == 8
