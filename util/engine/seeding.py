"""Derive independent random seeds for each purpose, step and rank."""

import numpy as np

# Their order is part of every result: append, never reorder.
STREAMS = ("weights", "prototypes", "dropout", "adaptation")


def derive_seed(seed: int, stream: str, position: int = 0, rank: int = 0) -> int:
    """Derive a 63-bit seed for a position in a random stream.

    Raises:
        ValueError: the stream is not one of `STREAMS`.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream must be one of {', '.join(STREAMS)}, got {stream!r}")
    # Rank 0 has the seeds of a single process.
    entropy = [seed, STREAMS.index(stream), position] + ([rank] if rank else [])
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
