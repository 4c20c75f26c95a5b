"""Bring the network to its device, in the form in which its steps run."""

import torch
from torch import nn

from models.few_shot_seg import FewShotSeg


def place(
    network: FewShotSeg, *, device: torch.device, channels_last: bool, compiles: bool, sync_batchnorm: bool
) -> None:
    """Bring a network to its device; changes it in place.

    Args:
        network: whose results stay the same, but for rounding.
        device: where it shall run.
        channels_last: keep channels innermost in memory.
        compiles: have kernels made of its heavy parts on first use.
        sync_batchnorm: let BatchNorm see the images of all ranks.
    """
    if sync_batchnorm:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compiles:
        network.compile_parts()
