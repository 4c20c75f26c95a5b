"""Threads of a process: what limits them, and that libraries use them."""

import cv2
import pytest
import SimpleITK as sitk
import torch

from util.parallel import threads
from util.parallel.ranks import Ranks
from util.parallel.threads import ThreadChoice, apply_threads, choose_threads

LARGE, SMALL = (256, 256), (64, 64)


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    monkeypatch.setattr(threads, "core_limits", lambda environment: [(16, "cores")])


def choose(ranks=None, *, n_workers=0, slice_size_px=LARGE, feature_width=512, **environment):
    return choose_threads(
        ranks or Ranks(),
        n_workers=n_workers,
        slice_size_px=slice_size_px,
        feature_width=feature_width,
        environment=environment,
    )


def test_all_usable_cores_get_a_thread():
    assert choose() == ThreadChoice(16, "16 cores")
    assert str(choose()) == "16 (16 cores)"


@pytest.mark.parametrize(("value", "number"), [("3", 3), ("5,2", 5), ("0", 16), ("many", 16)])
def test_the_users_number_wins(value, number):
    assert choose(OMP_NUM_THREADS=value).number == number


def test_ranks_of_a_machine_share_its_cores_unless_slurm_gave_each_its_own():
    ranks = Ranks(rank=5, n_ranks=8, local_rank=1, n_local_ranks=4)
    assert choose(ranks) == ThreadChoice(4, "16 cores for 4 ranks")
    assert choose(ranks, SLURM_PROCID="5").number == 16
    assert choose(ranks, SLURM_PROCID="0", TORCHELASTIC_RUN_ID="7").number == 4


@pytest.mark.parametrize(("n_workers", "number"), [(2, 14), (7, 9), (8, 16), (32, 16)])
def test_a_few_workers_keep_their_cores(n_workers, number):
    assert choose(n_workers=n_workers).number == number


@pytest.mark.parametrize(
    ("slice_size_px", "feature_width", "number"),
    [(SMALL, 64, 4), ((128, 128), 64, 16), (SMALL, 16, 1), ((16, 16), 16, 1)],
)
def test_a_small_network_gets_fewer(slice_size_px, feature_width, number):
    assert choose(slice_size_px=slice_size_px, feature_width=feature_width).number == number


def test_every_library_uses_the_number():
    before = (
        torch.get_num_threads(),
        cv2.getNumThreads(),
        sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(),
    )
    try:
        apply_threads(ThreadChoice(1, "a test"))
        assert torch.get_num_threads() == 1
        assert cv2.getNumThreads() == 1
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 1
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[2])
