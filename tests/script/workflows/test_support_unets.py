"""The U-Net of a support learns, repeatably, and takes slices of any size."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataloaders.episode_settings import AugmentationRanges
from script.workflows import support_unets, unet_training
from script.workflows.support_unets import SupportUNets
from script.workflows.unet_training import segment_slices, train_unet

pytest.importorskip("monai", reason="MONAI, which U-Nets need, is not installed")


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setattr(unet_training, "CHANNELS", (8, 16, 32, 64))


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


N_SLICES, SIZE = 5, (26, 30)


def _scan(scan_id):
    generator = torch.Generator().manual_seed(scan_id)
    label_map = np.zeros((N_SLICES, *SIZE), np.int16)
    label_map[1:4, 3:12, 4:14], label_map[2:5, 14:22, 15:27] = 2, 7
    images = torch.randn(N_SLICES, 1, *SIZE, generator=generator)
    return SimpleNamespace(scan_id=scan_id, images=images, support_labels=label_map, label_map=label_map)


def _job(support, query, label, slices, *, main_support=True):
    assignment = SimpleNamespace(slices=np.array(slices))
    return SimpleNamespace(
        support=support, query=query, label=label, assignment=assignment, main_support=main_support
    )


def test_each_main_support_trains_one_unet_and_each_query_is_segmented_once(monkeypatch):
    config = SimpleNamespace(
        seed=0,
        evaluation=SimpleNamespace(unet_steps=2),
        adaptation=SimpleNamespace(augmentation=AugmentationRanges()),
    )
    scans = [_scan(scan_id) for scan_id in range(4)]
    jobs = [
        _job(scans[0], scans[2], 2, [1, 3]),
        _job(scans[1], scans[2], 7, [0]),
        _job(scans[0], scans[3], 2, [2]),
        _job(scans[0], scans[2], 7, [4]),
        _job(scans[0], scans[3], 7, [1, 2]),
    ]
    trained, segmented = [], []
    train, segment = unet_training.train_unet, support_unets.segment_slices

    def counting_train(*args, **options):
        trained.append(options["n_classes"])
        return train(*args, **options)

    def counting_segment(model, images):
        segmented.append(segment(model, images))
        return segmented[-1]

    monkeypatch.setattr(unet_training, "train_unet", counting_train)
    monkeypatch.setattr(support_unets, "segment_slices", counting_segment)
    other = _job(scans[2], scans[3], 2, [0], main_support=False)
    unets = SupportUNets([*jobs, other], config=config, device=torch.device("cpu"))
    results = list(unets.segment(jobs))
    assert trained == [3, 2]
    assert len(segmented) == 3
    assert sorted(map(id, (job for job, _ in results))) == sorted(map(id, jobs))
    of_job = {id(job): result for job, result in results}
    np.testing.assert_array_equal(of_job[id(jobs[0])], segmented[0][[1, 3], 1])
    np.testing.assert_array_equal(of_job[id(jobs[3])], segmented[0][[4], 2])
    np.testing.assert_array_equal(of_job[id(jobs[1])], segmented[1][[0], 1])
    np.testing.assert_array_equal(unets.segment_job(jobs[1]), of_job[id(jobs[1])])
    assert trained == [3, 2]


def _train_on(support, cache_dir, **changes):
    config = SimpleNamespace(
        seed=changes.pop("seed", 0),
        evaluation=SimpleNamespace(unet_steps=changes.pop("steps", 2)),
        adaptation=SimpleNamespace(augmentation=AugmentationRanges(**changes)),
    )
    job = _job(support, _scan(9), 7, [1, 2])
    return SupportUNets([job], config=config, device=torch.device("cpu"), cache_dir=cache_dir).segment_job(
        job
    )


def test_a_trained_unet_is_kept_and_only_for_what_trained_it(tmp_path, monkeypatch):
    trained, train = [], unet_training.train_unet

    def counting_train(*args, **options):
        trained.append(options["n_batches"])
        return train(*args, **options)

    monkeypatch.setattr(unet_training, "train_unet", counting_train)
    first, again = _train_on(_scan(0), tmp_path), _train_on(_scan(0), tmp_path)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, _train_on(_scan(0), None))
    assert trained == [2, 2]  # the second without a cache
    [path] = tmp_path.iterdir()
    others = [(_scan(1), {}), (_scan(0), {"seed": 1}), (_scan(0), {"steps": 3}), (_scan(0), {"noise": 0.3})]
    for support, changes in others:
        assert not np.array_equal(_train_on(support, tmp_path, **changes), first)
    assert trained == [2, 2, 2, 2, 3, 2]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged .*; the U-Net is trained again"):
        np.testing.assert_array_equal(_train_on(_scan(0), tmp_path), first)
    assert len(trained) == 7
    np.testing.assert_array_equal(_train_on(_scan(0), tmp_path), first)
    assert len(trained) == 7
