"""The U-Net of the baseline learns, repeatably, and takes slices of any size."""

import pytest
import torch

from script.workflows import unet_baseline
from script.workflows.unet_baseline import segment_slices, train_unet

pytest.importorskip("monai", reason="MONAI, which this baseline needs, is not installed")


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setattr(unet_baseline, "CHANNELS", (8, 16, 32, 64))


def _batches(n_batches):
    """Draw noisy slices of 30 x 26 px with a bright square (1) and a dark one (2)."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(n_batches):
        row, column = torch.randint(0, 10, (2,), generator=generator).tolist()
        classes = torch.zeros(2, 30, 26, dtype=torch.int64)
        classes[:, row : row + 9, column : column + 9] = 1
        classes[:, row + 10 : row + 19, column + 5 : column + 14] = 2
        signal = torch.tensor([0.0, 2.0, -2.0])[classes]
        yield signal + 0.3 * torch.randn(signal.shape, generator=generator), classes


def _train(n_batches, seed=0):
    options = {"n_batches": n_batches, "n_classes": 3, "seed": seed, "device": torch.device("cpu")}
    return train_unet(_batches(n_batches), **options)


def test_it_learns_to_tell_two_organs_from_the_background():
    state = torch.random.get_rng_state()
    model = _train(60)
    assert torch.equal(torch.random.get_rng_state(), state)
    images, classes = next(iter(_batches(1)))
    probabilities = segment_slices(model, images)
    assert probabilities.shape == (2, 3, 30, 26)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 30, 26))
    for label in (1, 2):
        mask, true = probabilities.argmax(1) == label, classes == label
        assert 2 * (mask & true).sum() / (mask.sum() + true.sum()) > 0.7
    # Each slice alone: the result does not depend on its company.
    torch.testing.assert_close(segment_slices(model, images[:1]), probabilities[:1])


def test_the_seed_decides_the_result():
    images, _ = next(iter(_batches(1)))
    first, again, other = (segment_slices(_train(3, seed), images) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
