"""Episodes of one annotated scan hold its organs, in slices near each other."""

import numpy as np
import pytest
import torch

from dataloaders.prepared_scans import PreparedScan
from dataloaders.support_episodes import SupportAugmentation, make_support_episodes
from util.errors import UserError
from util.io.image_io import Geometry

SHAPE = (9, 32, 32)
NONE = SupportAugmentation.disabled()


@pytest.fixture(name="support")
def _support():
    label_map = np.zeros(SHAPE, np.int16)
    label_map[1:8, 4:14, 4:14] = 1
    label_map[3:6, 20:28, 18:28] = 2
    label_map[2, 0:2, 0:2] = 3  # a single slice
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)).numpy()
    geometry = Geometry(SHAPE, (5.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    return PreparedScan(4, image, label_map, None, geometry)


def make(support, labels, *, augmentation=NONE, **changes):
    settings = {"n_episodes": 40, "max_gap": 3, "min_size_px": 50, "seed": 1, **changes}
    return make_support_episodes([support], labels, augmentation=augmentation, **settings)


def test_episodes_show_one_organ_in_two_of_its_slices(support):
    gaps, organs = set(), set()
    for episode in make(support, [1, 2]):
        label = int(episode["supervoxel_id"])
        first, second = episode["slice_indices"].tolist()
        np.testing.assert_array_equal(episode["support_masks"][0], support.label_map[first] == label)
        np.testing.assert_array_equal(episode["query_masks"][0], support.label_map[second] == label)
        assert int(episode["scan_id"]) == support.scan_id
        gaps.add(abs(first - second))
        organs.add(label)
    assert gaps == {1, 2, 3}
    assert organs == {1, 2}


def test_organs_that_are_not_requested_never_show(support):
    assert {int(episode["supervoxel_id"]) for episode in make(support, [2])} == {2}


def test_the_default_augmentation_is_stronger_than_training():
    ranges = SupportAugmentation()
    assert (ranges.rotation_deg, ranges.shift_px, ranges.scale) == (15, 20, (0.7, 1.4))
    assert ranges.gamma == (0.5, 1.5)  # as in training


def test_an_organ_in_a_single_slice_gives_no_episode(support):
    with pytest.raises(UserError, match="no episode can be sampled"):
        make(support, [3])
