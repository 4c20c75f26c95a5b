"""Only available devices are chosen."""

import pytest
import torch

from util.errors import UserError
from util.parallel.devices import choose_device
from util.parallel.ranks import Ranks

SECOND_OF_TWO = Ranks(rank=1, n_ranks=2, local_rank=1, n_local_ranks=2)
FOURTH_OF_FOUR_ON_TWO_MACHINES = Ranks(rank=3, n_ranks=4, local_rank=1, n_local_ranks=2)


@pytest.fixture(name="machine")
def _machine(monkeypatch):
    """Stand in for machines with CUDA devices or Metal."""

    def has(*, n_cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n_cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("present", "name", "selected"),
    [
        ({}, "auto", "cpu"),
        ({"mps": True}, "auto", "mps"),
        ({"n_cuda": 1}, "auto", "cuda"),
        ({"n_cuda": 1, "mps": True}, "auto", "cuda"),
        ({"n_cuda": 1}, "cpu", "cpu"),
        ({"n_cuda": 2}, "cuda", "cuda"),
        ({"n_cuda": 2}, "cuda:1", "cuda:1"),
        ({"mps": True}, "mps", "mps"),
    ],
)
def test_an_available_device_is_chosen(machine, present, name, selected):
    machine(**present)
    assert choose_device(name) == torch.device(selected)


@pytest.mark.parametrize(
    ("present", "name", "message"),
    [
        ({}, "cuda", "device=cuda: this machine has 0 CUDA devices; use device=auto"),
        ({"n_cuda": 2}, "cuda:2", "device=cuda:2: this machine has 2 CUDA devices"),
        ({"n_cuda": 2}, "mps", "device=mps: this machine has no Metal GPU"),
        ({}, "gpu", "device=gpu: must be cpu, cuda, cuda:<n>, mps or auto"),
        ({}, "cuda:x", "device=cuda:x: must be cpu"),
        ({}, "meta", "device=meta: must be cpu"),
    ],
)
def test_a_missing_device_is_refused(machine, present, name, message):
    machine(**present)
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("present", "name", "ranks", "selected"),
    [
        ({}, "auto", SECOND_OF_TWO, "cpu"),
        ({"mps": True}, "auto", SECOND_OF_TWO, "cpu"),
        ({"n_cuda": 2}, "cpu", SECOND_OF_TWO, "cpu"),
        ({"n_cuda": 2}, "auto", SECOND_OF_TWO, "cuda:1"),
        ({"n_cuda": 8}, "cuda", SECOND_OF_TWO, "cuda:1"),
        ({"n_cuda": 2}, "cuda", FOURTH_OF_FOUR_ON_TWO_MACHINES, "cuda:1"),
        ({"n_cuda": 1}, "cuda", Ranks(), "cuda"),
    ],
)
def test_each_rank_has_its_own_device(machine, present, name, ranks, selected):
    machine(**present)
    assert choose_device(name, ranks) == torch.device(selected)


@pytest.mark.parametrize(
    ("present", "name", "message"),
    [
        (
            {"n_cuda": 2},
            "cuda:1",
            "device=cuda:1: 2 ranks cannot share it; use device=cuda, which gives each",
        ),
        ({"mps": True}, "mps", "device=mps: 2 ranks cannot share it"),
        (
            {"n_cuda": 1},
            "cuda",
            "device=cuda: 2 ranks are on a machine with 1 CUDA devices; start one for each",
        ),
        ({"n_cuda": 1}, "auto", "device=auto: 2 ranks are on a machine with 1 CUDA devices"),
        ({}, "cuda", "device=cuda: this machine has 0 CUDA devices"),
        ({"n_cuda": 2}, "gpu", "device=gpu: must be cpu"),
    ],
)
def test_a_device_that_several_ranks_cannot_have_is_refused(machine, present, name, message):
    machine(**present)
    with pytest.raises(UserError) as caught:
        choose_device(name, SECOND_OF_TWO)
    assert str(caught.value).startswith(message)
