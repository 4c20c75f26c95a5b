"""Slices for a network without support are augmented together with their labels."""

import numpy as np
import pytest

from dataloaders.episode_settings import AugmentationRanges
from dataloaders.labelled_slices import iterate_labelled_slices

NONE = AugmentationRanges(
    gamma=(1, 1), rotation_deg=0, shift_px=0, shear_deg=0, scale=(1, 1), elastic_amplitude=0
)


@pytest.fixture(name="scan")
def _scan():
    label_map = np.zeros((3, 32, 32), np.uint8)
    label_map[0, 8:20, 6:16] = 2
    label_map[2, 12:24, 14:26] = 1
    return label_map * 5.0, label_map


def _draw(scan, ranges, *, n_batches=6, seed=1):
    images, label_map = scan
    options = {"batch_size": 2, "n_batches": n_batches, "ranges": ranges, "seed": seed}
    return list(iterate_labelled_slices(images.astype(np.float32), label_map, **options))


def test_without_augmentation_slices_come_as_they_are(scan):
    images, label_map = scan
    drawn = _draw(scan, NONE)
    assert len(drawn) == 6
    seen = set()
    for batch, labels in drawn:
        assert (batch.shape, batch.dtype, labels.dtype) == ((2, 32, 32), np.float32, np.int64)
        for image, label in zip(batch, labels, strict=True):
            [z] = [z for z in range(3) if np.array_equal(label_map[z], label)]
            np.testing.assert_allclose(image, images[z], atol=1e-5)
            seen.add(z)
    assert seen == {0, 1, 2}  # also the slice without any organ


def test_labels_move_with_their_image(scan):
    # Constant slices are enlarged, moved and turned; halfway between two intensities lies the organ's edge.
    ranges = NONE.model_copy(update={"rotation_deg": 30.0, "shift_px": 40.0, "scale": (0.7, 1.4)})
    moved = 0
    for batch, labels in _draw(scan, ranges, n_batches=12):
        for image, label in zip(batch, labels, strict=True):
            value = label.max()
            assert np.mean((image > 2.5 * value) == (label > 0)) > 0.97
            moved += not any(np.array_equal(label, own) for own in scan[1])
    assert moved >= 3  # an empty slice looks the same however it is turned


def test_draws_depend_on_the_seed_alone(scan):
    ranges = AugmentationRanges(contrast=(0.7, 1.3), brightness=0.3, noise=0.2, bias=0.3)
    first, again, other = (_draw(scan, ranges, seed=seed) for seed in (3, 3, 4))
    assert all(
        np.array_equal(a, b) for pair in zip(first, again, strict=True) for a, b in zip(*pair, strict=True)
    )
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))
