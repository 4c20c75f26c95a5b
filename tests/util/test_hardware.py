"""Kernels and number formats follow the configuration; memory is told in the same unit everywhere."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from util import hardware
from util.hardware import choose_kernels, peak_memory_gb

pytestmark = pytest.mark.usefixtures("switches_restored")


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_kernels_are_deterministic_or_the_fastest_whatever_was_before(deterministic, again):
    if again:
        choose_kernels(deterministic=not deterministic, precision="fp32")
    choose_kernels(deterministic=deterministic, precision="fp32")
    assert torch.backends.cudnn.deterministic is deterministic
    assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert not deterministic or os.environ["CUBLAS_WORKSPACE_CONFIG"]
    # Some kernels have no deterministic form: that is worth a warning, not an end.
    assert torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", True)])
@pytest.mark.parametrize("before", [True, False])
def test_only_fp32_forbids_tf32_in_products_and_convolutions(precision, allowed, before):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = before
    choose_kernels(deterministic=False, precision=precision)
    assert torch.backends.cuda.matmul.allow_tf32 is allowed
    assert torch.backends.cudnn.allow_tf32 is allowed


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_1e9_bytes_on_every_system(platform, unit, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(
        hardware.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3_000_000_000 // unit)
    )
    assert peak_memory_gb(torch.device("cpu")) == pytest.approx(3.0, rel=1e-6)


def test_peak_memory_of_a_cuda_device_is_that_devices(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or 5e9)
    assert peak_memory_gb(torch.device("cuda:1")) == 5.0
    assert asked == [torch.device("cuda:1")]
