"""Kernel selection, floating-point formats and peak memory of this process."""

import os
import resource
import sys
import time

import torch

from util.parallel.devices import SINGLE_RANK, choose_device
from util.parallel.processor import has_bfloat16
from util.parallel.ranks import Ranks
from util.remarks import remark

PRECISIONS = ("fp32", "tf32", "bf16")  # number formats, the fastest last
AUTO = "auto"  # requests the fastest native one


def set_up_device(
    name: str, precision: str, *, deterministic: bool, ranks: Ranks = SINGLE_RANK
) -> tuple[torch.device, str]:
    """Choose device and number format, and configure the process's kernels for them.

    Args:
        name, ranks: see `choose_device`.
        precision: see `choose_precision`.
        deterministic: see `choose_kernels`.

    Returns:
        The device and the number format.
    """
    device = choose_device(name, ranks)
    precision = choose_precision(precision, device)
    choose_kernels(deterministic=deterministic, precision=precision)
    return device, precision


def native_precisions(device: torch.device) -> tuple[str, ...]:
    """Return the number formats that a device computes in hardware, the fastest last."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return PRECISIONS
    if device.type == "cpu" and has_bfloat16():
        return "fp32", "bf16"
    return ("fp32",)


def choose_precision(requested: str, device: torch.device) -> str:
    """Return the number format to compute in.

    Args:
        requested: one of `PRECISIONS`, or `AUTO`. One that the device lacks is remarked on, with its speed
            measured in a small convolution.
        device: where the network will run.
    """
    native = native_precisions(device)
    if requested == AUTO:
        return native[-1]
    if requested == "tf32" not in native:
        remark(f"precision=tf32: {device} has no TF32 and computes in fp32")
    elif requested not in native:
        slowdown = _time_convolution(torch.bfloat16, device) / _time_convolution(torch.float32, device)
        remark(
            f"precision={requested}: {device} only emulates it; a small convolution takes {slowdown:.2g} "
            "times as long as in fp32; precision=auto takes the fastest native format"
        )
    return requested


def _time_convolution(dtype: torch.dtype, device: torch.device) -> float:
    """Return the shortest time of three forward and backward passes, in seconds, after one to warm up."""
    image = torch.ones(1, 32, 32, 32, dtype=dtype, device=device)
    kernel = torch.ones(32, 32, 3, 3, dtype=dtype, device=device, requires_grad=True)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        torch.nn.functional.conv2d(image, kernel).sum().backward()
        float(kernel.grad[0, 0, 0, 0])  # waits for the device
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def choose_kernels(*, deterministic: bool, precision: str) -> None:
    """Configure determinism and TF32 of CUDA kernels for the process.

    Args:
        deterministic: use deterministic kernels instead of benchmarking for the fastest.
        precision: `fp32` disables TF32, which PyTorch allows in convolutions by default; `tf32` and `bf16`
            allow it for float32 operations. Only CUDA GPUs have TF32.
    """
    if deterministic:  # must precede the first cuBLAS call
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    _set_deterministic_algorithms(deterministic)
    allowed = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _set_deterministic_algorithms(mode: bool) -> None:
    """Set deterministic algorithms without the import of the compiler that PyTorch's function makes."""
    if "torch._inductor.config" in sys.modules:
        torch.use_deterministic_algorithms(mode, warn_only=True)
        return
    torch.set_deterministic_debug_mode("warn" if mode else "default")
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = str(int(mode))  # read when the compiler is imported


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory in 1e9 bytes: the GPU's on CUDA, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
