"""The random keys by which training seeds prototypes: a hash, so the same everywhere."""

import itertools

import pytest
import torch

from models.prototypes import _choose, _random_keys, extract_prototypes
from tests.models.prototype_cases import LIMITS, coordinates

N_32 = 1 << 32


def _hash(number):
    """Wellons' "lowbias32" on Python's integers, in its author's words: xorshift, multiply, twice."""
    number ^= number >> 16
    number = number * 0x7FEB352D % N_32
    number ^= number >> 15
    number = number * 0x846CA68B % N_32
    return number ^ number >> 16


def _key(seed, position):
    low, high = seed % N_32, seed // N_32 % N_32
    return _hash((_hash(_hash(low) ^ high) + position) % N_32)


def _keys(seeds, *shape):
    return _random_keys(torch.tensor(seeds), torch.Size(shape))


SEEDS = [0, 1, 2, 7, 2**31, 2**32 - 1, 2**32, 2**33 + 5, 2**62 + 123456789, 2**63 - 1]


def test_the_hash_of_one_is_the_hand_computed_one():
    # 1 * 0x7feb352d, with 0xffd6 of its upper bits 0x7febcafb; times 0x846ca68b, below 2^32, 0x6889f849;
    # with its upper half, 0x6889, 0x688990c0.
    assert _hash(1) == 0x688990C0
    assert _hash(0) == 0
    assert _keys([0], 1, 2).tolist() == [[[0, 0x688990C0]]]


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_equal_those_of_whole_number_arithmetic(seed):
    expected = [[_key(seed, shot * 50 + position) for position in range(50)] for shot in range(2)]
    assert _keys([seed], 2, 50)[0].tolist() == expected


def test_an_episodes_keys_depend_on_its_seed_alone_and_both_halves_of_it_count():
    together = _keys(SEEDS, 2, 300)
    for index, seed in enumerate(SEEDS):
        assert torch.equal(together[index], _keys([seed], 2, 300)[0])
    for first, second in itertools.combinations(together, 2):
        assert (first == second).float().mean() < 0.01


def test_all_keys_of_an_episode_differ():
    keys = _keys([3, 2**40], 4, 65536).flatten(1)
    assert keys.min() >= 0
    assert keys.max() < N_32
    for of_episode in keys:
        assert len(of_episode.unique()) == 4 * 65536


def _chi_square(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected).square() / expected).sum().item()


@pytest.mark.parametrize("shift", [0, 14, 28], ids=["low", "middle", "high"])
def test_keys_are_uniform_over_places_and_over_consecutive_seeds(shift):
    # 16 classes have 15 degrees of freedom; a sum above 50 has a probability of 1e-5.
    keys = _keys(list(range(2000)), 1, 40)[:, 0] >> shift & 15
    assert _chi_square(torch.bincount(keys.flatten(), minlength=16).double()) < 50
    for position in (0, 1, 39):
        assert _chi_square(torch.bincount(keys[:, position], minlength=16).double()) < 50


def test_each_place_is_as_often_before_any_other_as_behind_it():
    keys = _keys(list(range(1000, 3000)), 1, 12)[:, 0]
    shares = (keys[:, :, None] < keys[:, None]).double().mean(dim=0)
    off_diagonal = shares[~torch.eye(12, dtype=torch.bool)]
    assert (off_diagonal - 0.5).abs().max() < 5 * (0.25 / 2000) ** 0.5


def test_seeds_of_both_classes_and_directions_draw_independently():
    # Neighbouring seeds serve them: a place drawn by one must not be likelier or rarer in the next.
    keys = _keys(list(range(2000)), 1, 40)[:, 0]
    drawn = keys < keys.median(dim=1, keepdim=True).values
    both = (drawn[:-1] & drawn[1:]).double().mean()
    share = drawn.double().mean()
    assert abs(both - share**2) < 0.005


def test_fewer_candidates_than_slots_fill_only_as_many():
    qualifies = torch.tensor([[[True, False, True, True, False]], [[False] * 5], [[True] * 5]])
    indices, filled = _choose(qualifies, limit=150, n_slots=8, seeds=torch.tensor([4, 5, 6]))
    assert indices.shape == filled.shape == (3, 1, 8)
    assert filled.sum(dim=-1)[:, 0].tolist() == [3, 0, 5]
    assert sorted(indices[0][filled[0]].tolist()) == [0, 2, 3]
    assert sorted(indices[2][filled[2]].tolist()) == [0, 1, 2, 3, 4]
    assert indices.min() >= 0
    assert indices.max() < 5


def test_the_lowest_keys_among_the_qualifying_are_drawn():
    seed = 11
    qualifies = torch.arange(60).remainder(3).ne(0)[None, None]
    indices, filled = _choose(qualifies, limit=7, n_slots=10, seeds=torch.tensor([seed]))
    by_key = sorted(
        (position for position in range(60) if position % 3), key=lambda position: _key(seed, position)
    )
    assert indices[filled].tolist() == by_key[:7]


def test_features_of_every_dtype_get_the_same_windows():
    size_px = (112, 136)
    mask = torch.ones(1, 1, *size_px)
    exact = None
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        features = (coordinates(size_px) / 128).to(dtype)
        seeds = torch.tensor([2**35 + 3])
        result = extract_prototypes(features, mask, area_limit=LIMITS[1], seeds=seeds)
        assert result.valid.sum() == 150
        exact = result.region if exact is None else exact
        # Windows are 8 px apart, a sixteenth here.
        torch.testing.assert_close(result.region.double(), exact, rtol=0, atol=0.01)
