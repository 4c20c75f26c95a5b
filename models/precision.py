"""Which number formats the network computes in.

Convolutions and attention products, nearly all of the work, may run in bfloat16; what is summed over many
elements or compared with thresholds (prototypes, similarities, softmaxes, losses) keeps float32 or better.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def mixed_precision(device: torch.device, precision: str) -> AbstractContextManager:
    """Return the context in which the network runs forward.

    Args:
        device: where it runs.
        precision: `bf16` for bfloat16 where it suffices; all else computes in the tensors' own formats.
    """
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """Return a context that lifts autocast: operands keep their formats."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def upcast(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; wider formats are unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def store_half_weights(module: nn.Module) -> None:
    """Convert the weights of convolutions and linear maps to bfloat16, permanently.

    In evaluation this is what autocast would do anew in each call.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Linear):
            child.to(torch.bfloat16)
