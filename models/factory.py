"""Build the network with its initial weights, and move it to its device."""

import torch
from torch import nn

from models.encoder_weights import load_encoder_weights
from models.few_shot_seg import FewShotSeg


def build_network(*, seed: int, encoder_weights: str | None, **options: object) -> FewShotSeg:
    """Build a network whose start depends on the arguments alone.

    Args:
        seed: of the random start; the global random state is left as it was.
        encoder_weights: see `load_encoder_weights`; None starts the encoder at random too.
        options: `FewShotSeg`'s arguments.

    Raises:
        models.encoder_weights.WeightsError: the weights are unavailable or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would touch the GPUs' too
        model = FewShotSeg(**options)
    if encoder_weights is not None:
        load_encoder_weights(model.encoder, encoder_weights)
    return model


def to_device(
    network: FewShotSeg, *, device: torch.device, channels_last: bool, compiles: bool, sync_batchnorm: bool
) -> None:
    """Move a network to its device and set up how it runs, in place.

    Args:
        network: whose results stay the same, but for rounding.
        device: where it will run.
        channels_last: keep channels innermost in memory.
        compiles: compile its encoder and decoders on first use.
        sync_batchnorm: let BatchNorm see the images of all ranks.
    """
    if sync_batchnorm:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compiles:
        network.compile_parts()
