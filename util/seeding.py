"""Seeds of streams that do not meet: each purpose and position has its own."""

import numpy as np
import torch

# Streams of randomness. The numbers are part of every result: add, never reorder.
STREAMS = ("weights", "prototypes", "dropout")


def derive_seed(seed: int, stream: str, position: int = 0) -> int:
    """Derive a 63-bit seed for one position of a stream.

    Raises:
        ValueError: the stream is not one of `STREAMS`.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream must be one of {', '.join(STREAMS)}, got {stream!r}")
    entropy = [seed, STREAMS.index(stream), position]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def torch_generator(seed: int, stream: str, position: int = 0) -> torch.Generator:
    """Make a CPU generator for one position of a stream; see `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, position))
