"""A device is chosen only where it is there."""

import pytest
import torch

from util.devices import choose_device
from util.errors import UserError


@pytest.fixture(name="machine")
def _machine(monkeypatch):
    """Stand in for machines with CUDA devices or Metal."""

    def has(*, n_cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n_cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("present", "name", "chosen"),
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
def test_a_device_that_is_there_is_chosen(machine, present, name, chosen):
    machine(**present)
    assert choose_device(name) == torch.device(chosen)


@pytest.mark.parametrize(
    ("present", "name", "message"),
    [
        ({}, "cuda", "device=cuda: this machine offers 0 CUDA devices; use device=auto"),
        ({"n_cuda": 2}, "cuda:2", "device=cuda:2: this machine offers 2 CUDA devices"),
        ({"n_cuda": 2}, "mps", "device=mps: this machine has no Metal GPU"),
        ({}, "gpu", "device=gpu: must be cpu, cuda, cuda:<n>, mps or auto"),
        ({}, "cuda:x", "device=cuda:x: must be cpu"),
        ({}, "meta", "device=meta: must be cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine, present, name, message):
    machine(**present)
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert str(caught.value).startswith(message)
