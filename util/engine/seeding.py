"""Seeds of streams that do not meet: each purpose and position has its own."""

import numpy as np

# Streams of randomness. The numbers are part of every result: add, never reorder.
STREAMS = ("weights", "prototypes", "dropout")


def derive_seed(seed: int, stream: str, position: int = 0, rank: int = 0) -> int:
    """Derive a 63-bit seed for one position of a stream, on one rank.

    Raises:
        ValueError: the stream is not one of `STREAMS`.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream must be one of {', '.join(STREAMS)}, got {stream!r}")
    # Rank 0 adds nothing: it has the seeds of a process that is alone.
    entropy = [seed, STREAMS.index(stream), position] + ([rank] if rank else [])
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
