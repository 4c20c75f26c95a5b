"""Each purpose and position has a separate stream, the same on every machine."""

import pytest

from util.engine.seeding import STREAMS, derive_seed


def test_seeds_never_change():
    # They are part of every published figure.
    assert STREAMS[:3] == ("weights", "prototypes", "dropout")
    assert derive_seed(2025, "weights") == 6_939_064_186_668_530_017
    assert derive_seed(2025, "dropout", 40_000) == 7_560_524_464_123_908_631


def test_streams_positions_and_seeds_are_distinct():
    seeds = [
        derive_seed(seed, stream, position)
        for seed in (0, 1, 2025)
        for stream in STREAMS
        for position in range(200)
    ]
    assert len(set(seeds)) == len(seeds)
    # Signed 64-bit integers, which every generator takes.
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_ranks_have_distinct_seeds_and_rank_0_those_of_a_single_process():
    seeds = [derive_seed(2025, "dropout", step, rank) for step in range(50) for rank in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert seeds[::4] == [derive_seed(2025, "dropout", step) for step in range(50)]


def test_an_unknown_stream_is_refused():
    with pytest.raises(ValueError, match="must be one of weights, prototypes, dropout, adaptation, got"):
        derive_seed(1, "episodes")
