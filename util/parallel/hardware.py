"""Kernel selection, floating-point formats and peak memory of this process."""

import os
import resource
import sys

import torch

from util.parallel.processor import has_bfloat16
from util.remarks import remark


def choose_kernels(*, deterministic: bool, precision: str, device: torch.device | None = None) -> None:
    """Configure determinism and TF32 of CUDA kernels for the process.

    Args:
        deterministic: use deterministic kernels instead of benchmarking for the fastest.
        precision: `fp32` disables TF32, which PyTorch allows in convolutions by default; `tf32` and `bf16`
            allow it for float32 operations. Only CUDA GPUs have TF32.
        device: a CPU without bfloat16 instructions is warned about with `bf16`.
    """
    if precision == "bf16" and device is not None and device.type == "cpu" and has_bfloat16() is False:
        remark("precision=bf16: this processor has no bfloat16 instructions and is far slower than with fp32")
    if deterministic:  # must precede the first cuBLAS call
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    allowed = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory in 1e9 bytes: the GPU's on CUDA, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
