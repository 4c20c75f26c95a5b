"""How this process uses its hardware: kernels, number formats, memory."""

import os
import resource
import sys

import torch

from util.parallel.processor import has_bfloat16
from util.remarks import remark


def choose_kernels(*, deterministic: bool, precision: str, device: torch.device | None = None) -> None:
    """Choose what CUDA kernels compute with, for the whole process.

    Args:
        deterministic: only deterministic kernels, instead of the fastest: never both.
        precision: `fp32` forbids TF32, which PyTorch allows in convolutions unless told otherwise; `tf32` and
            `bf16` allow it for what is computed in float32. Other devices than CUDA GPUs have no TF32.
        device: what computes; a processor without units for bfloat16 is remarked on.
    """
    if precision == "bf16" and device is not None and device.type == "cpu" and has_bfloat16() is False:
        remark(
            "precision=bf16: this processor has no units for bfloat16 and is many times slower than in fp32"
        )
    if deterministic:  # before the first product: cuBLAS otherwise sums in an order that changes
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    allowed = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory used so far, in 1e9 bytes.

    It is the GPU's on CUDA, else this process's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
