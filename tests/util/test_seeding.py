"""Each purpose and position has a stream of its own, the same on every machine."""

import pytest
import torch

from util.seeding import STREAMS, derive_seed, torch_generator


def test_seeds_never_change():
    # They are part of every published figure.
    assert STREAMS[:3] == ("weights", "prototypes", "dropout")
    assert derive_seed(2025, "weights") == 6_939_064_186_668_530_017
    assert derive_seed(2025, "dropout", 40_000) == 7_560_524_464_123_908_631


def test_no_two_streams_positions_or_seeds_meet():
    seeds = [
        derive_seed(seed, stream, position)
        for seed in (0, 1, 2025)
        for stream in STREAMS
        for position in range(200)
    ]
    assert len(set(seeds)) == len(seeds)
    # Signed 64-bit integers, which every generator takes.
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_repeats_its_numbers_and_leaves_the_global_ones():
    before = torch.random.get_rng_state()
    first = torch.rand(4, generator=torch_generator(3, "prototypes", 5))
    again = torch.rand(4, generator=torch_generator(3, "prototypes", 5))
    other = torch.rand(4, generator=torch_generator(3, "prototypes", 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unknown_stream_is_refused():
    with pytest.raises(
        ValueError, match="stream must be one of weights, prototypes, dropout, got 'episodes'"
    ):
        derive_seed(1, "episodes")
