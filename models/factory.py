"""Build the network with its start: random from a seed, or pretrained."""

import torch

from models.encoder_weights import load_encoder_weights
from models.few_shot_seg import FewShotSeg


def build_network(*, seed: int, encoder_weights: str | None, **options: object) -> FewShotSeg:
    """Build a network whose start depends on the arguments alone.

    Args:
        seed: of the random start; the global random state is left as it was.
        encoder_weights: see `load_encoder_weights`; None starts the encoder at random too.
        options: `FewShotSeg`'s arguments.

    Raises:
        models.encoder_weights.WeightsError: the weights cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would touch the GPUs' too
        model = FewShotSeg(**options)
    if encoder_weights is not None:
        load_encoder_weights(model.encoder, encoder_weights)
    return model
