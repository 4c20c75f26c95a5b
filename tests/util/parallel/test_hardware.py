"""Kernels and number formats follow the configuration; memory has the same unit everywhere."""

import os
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from util.parallel import hardware, processor
from util.parallel.hardware import choose_kernels, peak_memory_gb
from util.remarks import Remark

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


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu avx2 avx512f", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("Features\t: fp asimd", False),
        ("nothing", None),
    ],
)
def test_bf16_on_a_processor_without_units_for_it_is_remarked_on(tmp_path, monkeypatch, line, has):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: a processor\n{line}\n")
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    assert processor.has_bfloat16() is has
    assert processor.processor_name() == "a processor"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for precision, device in (("bf16", "cpu"), ("fp32", "cpu"), ("bf16", "meta")):
            choose_kernels(deterministic=False, precision=precision, device=torch.device(device))
    assert [str(one.message)[:15] for one in caught if one.category is Remark] == ["precision=bf16:"] * (
        has is False
    )
