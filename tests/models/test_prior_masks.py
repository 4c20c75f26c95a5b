"""HCPMG's prior masks against their formula."""

import pytest
import torch

from models.prior_masks import full_prior_masks, make_prior_masks
from models.similarity import Similarity
from tests.models import literal
from tests.models.prototype_cases import one_shot

N_EPISODES, N_QUERIES, WIDTH, GRID = 2, 3, 5, (7, 9)


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _prototypes(seed, valid):
    return one_shot(
        global_=_random(N_EPISODES, WIDTH, seed=seed),
        region=_random(N_EPISODES, valid.shape[1], WIDTH, seed=seed + 1),
        valid=valid,
    )


@pytest.fixture(name="inputs")
def _inputs():
    valid = torch.tensor([[True, True, False, True], [False] * 4])
    return {
        "similarity": Similarity().double(),
        "prototypes": (_prototypes(10, valid), _prototypes(20, valid.flip(0))),
        "features": _random(N_EPISODES, N_QUERIES, WIDTH, *GRID),
        # Thresholds among the pooled similarities, so that each mask has both values.
        "tau_support": torch.tensor([[5.0, 4.0], [1.5, 7.0]], dtype=torch.float64),
        "tau_query": _random(N_EPISODES, N_QUERIES, 2, seed=3),
    }


def _literal_raw(inputs, index, episode, query):
    of_class = inputs["prototypes"][index]
    region = of_class.region[episode][of_class.valid[episode]]
    similarity = literal.similarities(
        torch.cat([of_class.global_[episode, None], region]),
        inputs["features"][episode, query],
        inputs["similarity"].alpha,
        magnitude=inputs["similarity"].magnitude,
    )
    threshold = inputs["tau_support"][episode, index]
    return literal.unrefined_prior(similarity, inputs["tau_query"][episode, query], threshold)


@pytest.mark.parametrize("magnitude", [True, False])
def test_masks_equal_the_literal_ones(inputs, magnitude):
    inputs["similarity"].magnitude = magnitude
    masks = make_prior_masks(**inputs)
    for episode in range(N_EPISODES):
        for query in range(N_QUERIES):
            background, foreground = (_literal_raw(inputs, index, episode, query) for index in (0, 1))
            here = (episode, query)
            assert torch.equal(masks.raw_background[here], background)
            assert torch.equal(masks.raw_foreground[here], foreground)
            assert torch.equal(masks.background[here], background * (1 - foreground))
            assert torch.equal(masks.foreground[here], foreground * (1 - background))
    assert all(0.02 < area < 0.98 for area in masks.areas())  # else the comparison would prove little


def test_one_prototype_equal_to_the_feature_clears_any_threshold_below_fifteen():
    feature = _random(1, 1, WIDTH, 1, 1)
    of_class = one_shot(
        global_=feature.reshape(1, WIDTH),
        region=_random(1, 1, WIDTH, seed=1),
        valid=torch.zeros(1, 1, dtype=torch.bool),
    )
    for threshold, expected in ((14.99, 1), (15.0, 0)):
        masks = make_prior_masks(
            Similarity().double(),
            (of_class, of_class),
            feature,
            tau_support=torch.tensor([[threshold, threshold]], dtype=torch.float64),
            tau_query=torch.zeros(1, 1, 2, dtype=torch.float64),
        )
        assert masks.raw_foreground.item() == masks.raw_background.item() == expected
        assert masks.foreground.item() == masks.background.item() == 0  # both claim it, or neither


@pytest.mark.parametrize(("thresholds", "areas"), [((-99, 99), (1, 0, 1, 0)), ((99, -99), (0, 1, 0, 1))])
def test_background_takes_the_first_threshold_and_foreground_the_second(inputs, thresholds, areas):
    inputs["tau_support"] = torch.tensor([thresholds] * N_EPISODES, dtype=torch.float64)
    assert make_prior_masks(**inputs).areas().tolist() == list(areas)


def test_two_full_masks_refine_to_two_empty_ones(inputs):
    inputs["tau_support"] = torch.full((N_EPISODES, 2), -99.0, dtype=torch.float64)
    assert make_prior_masks(**inputs).areas().tolist() == [1, 1, 0, 0]


def test_no_gradient_flows_through_the_masks(inputs):
    for name in ("features", "tau_support", "tau_query"):
        inputs[name].requires_grad_()
    masks = make_prior_masks(**inputs)
    for mask in (masks.raw_background, masks.raw_foreground, masks.background, masks.foreground):
        assert not mask.requires_grad


def test_masks_are_zero_and_one_in_the_features_dtype(inputs):
    masks = make_prior_masks(**inputs)
    for mask in (masks.raw_background, masks.raw_foreground, masks.background, masks.foreground):
        assert mask.shape == (N_EPISODES, N_QUERIES, *GRID)
        assert mask.dtype == torch.float64
        assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_an_episode_and_a_query_give_alone_what_they_give_together(inputs):
    together = make_prior_masks(**inputs)
    for episode in range(N_EPISODES):
        for query in range(N_QUERIES):
            e, q = slice(episode, episode + 1), slice(query, query + 1)
            alone = make_prior_masks(
                inputs["similarity"],
                tuple(one_shot(p.global_[e], p.region[e], p.valid[e]) for p in inputs["prototypes"]),
                inputs["features"][e, q],
                tau_support=inputs["tau_support"][e],
                tau_query=inputs["tau_query"][e, q],
            )
            assert torch.equal(alone.foreground, together.foreground[e, q])
            assert torch.equal(alone.background, together.background[e, q])


def test_full_masks_are_one_everywhere(inputs):
    masks = full_prior_masks(inputs["features"])
    assert masks.areas().tolist() == [1, 1, 1, 1]
    assert masks.foreground.shape == (N_EPISODES, N_QUERIES, *GRID)
    assert masks.foreground.dtype == torch.float64
