"""Kernels and number formats follow the configuration; memory has the same unit everywhere."""

import os
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from util.parallel import hardware, processor
from util.parallel.hardware import choose_kernels, choose_precision, peak_memory_gb
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
    assert not deterministic or torch.is_deterministic_algorithms_warn_only_enabled()


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
    requested = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: requested.append(device) or 5e9)
    assert peak_memory_gb(torch.device("cuda:1")) == 5.0
    assert requested == [torch.device("cuda:1")]


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
def test_bfloat16_units_are_found_in_the_processors_flags(tmp_path, monkeypatch, line, has):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: a processor\n{line}\n")
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    assert processor.has_bfloat16() is has
    assert processor.processor_name() == "a processor"


CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "capability", "native"),
    [
        (CPU, True, None, ("fp32", "bf16")),
        (CPU, False, None, ("fp32",)),
        (CPU, None, None, ("fp32",)),
        (GPU, False, (7, 5), ("fp32",)),
        (GPU, False, (8, 0), ("fp32", "tf32", "bf16")),
        (GPU, False, (9, 0), ("fp32", "tf32", "bf16")),
        (torch.device("mps"), True, None, ("fp32",)),
    ],
)
def test_auto_takes_the_fastest_native_format(monkeypatch, device, has_bfloat16, capability, native):
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: device == GPU and capability)
    assert hardware.native_precisions(device) == native
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_precision("auto", device) == native[-1]
        for precision in native:
            assert choose_precision(precision, device) == precision


def test_an_emulated_format_is_remarked_on_with_its_measured_speed(monkeypatch):
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: False)
    seconds = {torch.bfloat16: 0.5, torch.float32: 0.01}
    monkeypatch.setattr(hardware, "_time_convolution", lambda dtype, device: seconds[dtype])
    with pytest.warns(Remark, match=r"^precision=bf16: cpu only emulates it; .* takes 50 times as long"):
        assert choose_precision("bf16", CPU) == "bf16"
    with pytest.warns(Remark, match=r"^precision=tf32: cpu has no TF32 and computes in fp32$"):
        assert choose_precision("tf32", CPU) == "tf32"


def test_a_convolution_is_timed_in_either_format():
    assert all(0 < hardware._time_convolution(dtype, CPU) < 10 for dtype in (torch.float32, torch.bfloat16))
