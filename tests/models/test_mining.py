"""TRM's attentions against separate ones with masked keys projected anew."""

import pytest
import torch

from models.mining import InformationAggregation, TargetRegionMining
from tests.models import literal

N_EPISODES, N_QUERIES, WIDTH, GRID, N_SOURCE = 2, 3, 4, (5, 7), 22


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _randomised(module):
    for seed, parameter in enumerate(module.parameters()):
        torch.nn.init.normal_(parameter, 0.6, 0.5, generator=torch.Generator().manual_seed(seed))
    return module.double()


@pytest.fixture(name="aggregation")
def _aggregation():
    return _randomised(InformationAggregation(feature_width=WIDTH))


@pytest.fixture(name="mining")
def _mining():
    return _randomised(TargetRegionMining(feature_width=WIDTH))


def _literal_weights(module):
    return literal.Aggregation(module.wq.weight, module.wk.weight, module.wv.weight, module.mu)


def _attend(module, query, source, masks):
    """The module on a query (C, h, w) and a source (C, n), with the residual it leaves to its caller."""
    positions = query.flatten(1).T
    added = module(positions[None], *module.project(source.T[None]), torch.stack(masks)[None])[0]
    return [(positions + x).T.reshape(query.shape) for x in added]


def test_every_free_scalar_starts_at_a_half():
    scalars = {
        n: p.tolist() for n, p in TargetRegionMining(feature_width=WIDTH).named_parameters() if p.ndim == 1
    }
    names = ("self_attention.mu", "cross_attention.mu", "beta_bg", "beta_fg")
    assert scalars == {name: [0.5] for name in names}


def test_projections_have_no_bias():
    assert not [n for n, _ in TargetRegionMining(feature_width=WIDTH).named_parameters() if "bias" in n]


def test_a_single_source_position_is_passed_on_whatever_the_mask(aggregation):
    query, source = _random(WIDTH, 2, 2), _random(WIDTH, 1, seed=1)
    (out,) = _attend(aggregation, query, source, [torch.zeros(1, dtype=torch.float64)])
    expected = query + (aggregation.wv.weight @ source)[:, :, None]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("gradients", [False, True])
def test_queries_that_supports_share_are_mined_as_copies_are(mining, gradients):
    features = _random(1, N_QUERIES, WIDTH, *GRID)
    draw = torch.rand(3, N_QUERIES, 2, *GRID, generator=torch.Generator().manual_seed(5)).double()
    priors = (draw[:, :, 0].round(), draw[:, :, 1].round())
    support = {
        "support_keys": _random(3, N_SOURCE, WIDTH, seed=1),
        "support_values": _random(3, N_SOURCE, WIDTH, seed=2),
        "support_mask": torch.rand(3, N_SOURCE, generator=torch.Generator().manual_seed(6)).double(),
    }
    with torch.set_grad_enabled(gradients):
        shared = mining(features, priors, **support)
        copied = mining(features.repeat(3, 1, 1, 1, 1), priors, **support)
    assert shared[0].shape == (3, N_QUERIES, WIDTH, *GRID)
    torch.testing.assert_close(shared, copied, rtol=1e-10, atol=1e-12)
    assert (shared[0][0] - shared[0][1]).abs().max() > 1e-3


def test_masked_out_keys_keep_logit_zero():
    # With all keys masked out the masked half is a plain average of the values.
    module = InformationAggregation(feature_width=1).double()
    for linear in (module.wq, module.wk, module.wv):
        torch.nn.init.ones_(linear.weight)
    torch.nn.init.constant_(module.mu, 1e9)
    source = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
    query = torch.tensor([[[4.0]]], dtype=torch.float64)
    (out,) = _attend(module, query, source, [torch.zeros(3, dtype=torch.float64)])
    assert out.item() == pytest.approx(4 + 3, rel=1e-6)


@pytest.mark.parametrize("kind", ["random", "hard", "empty", "full"])
def test_aggregation_equals_the_literal_one(aggregation, kind):
    query, source = _random(WIDTH, *GRID), _random(WIDTH, N_SOURCE, seed=1)
    soft = torch.rand(N_SOURCE, generator=torch.Generator().manual_seed(2)).double()
    mask = {"random": soft, "hard": soft.round(), "empty": soft * 0, "full": soft * 0 + 1}[kind]
    got = _attend(aggregation, query, source, [mask, 1 - mask])
    for of_mask, out in zip((mask, 1 - mask), got, strict=True):
        expected = literal.aggregate(_literal_weights(aggregation), query, source, of_mask)
        torch.testing.assert_close(out, expected)


def test_gradients_of_the_aggregation_equal_the_literal_ones(aggregation):
    query, source = _random(WIDTH, *GRID).requires_grad_(), _random(WIDTH, N_SOURCE, seed=1).requires_grad_()
    mask = torch.rand(N_SOURCE, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    inputs, cotangent = (
        (query, source, mask, *aggregation.parameters()),
        _random(WIDTH, *GRID, seed=3),
    )
    (out,) = _attend(aggregation, query, source, [mask])
    expected = literal.aggregate(_literal_weights(aggregation), query, source, mask)
    got = torch.autograd.grad((out * cotangent).sum(), inputs)
    torch.testing.assert_close(got, torch.autograd.grad((expected * cotangent).sum(), inputs))


def _mine(mining, features, priors, source, mask):
    """The module on sources (B, C, S), whose projections are the caller's to make."""
    keys, values = mining.cross_attention.project(source.transpose(1, 2))
    return mining(features, priors, support_keys=keys, support_values=values, support_mask=mask)


def _case():
    generator = torch.Generator().manual_seed(4)
    features, source = (
        _random(N_EPISODES, N_QUERIES, WIDTH, *GRID),
        _random(N_EPISODES, WIDTH, N_SOURCE, seed=1),
    )
    mask = torch.rand(N_EPISODES, N_SOURCE, generator=generator).double()
    background = (torch.rand(N_EPISODES, N_QUERIES, *GRID, generator=generator) < 0.4).double()
    foreground = (1 - background) * (torch.rand(background.shape, generator=generator) < 0.5)
    foreground[0, 1] = 0
    return features, (background, foreground), source, mask


def test_mined_features_equal_the_literal_ones(mining):
    features, priors, source, mask = _case()
    mined = _mine(mining, features, priors, source, mask)
    own, cross = (_literal_weights(module) for module in (mining.self_attention, mining.cross_attention))
    for index, beta in enumerate((mining.beta_bg, mining.beta_fg)):
        assert mined[index].shape == features.shape
        for episode in range(N_EPISODES):
            for query in range(N_QUERIES):
                expected = literal.mine(
                    own,
                    cross,
                    beta,
                    query=features[episode, query],
                    prior=priors[index][episode, query],
                    source=source[episode],
                    mask=mask[episode] if index == literal.FOREGROUND else 1 - mask[episode],
                )
                torch.testing.assert_close(mined[index][episode, query], expected)


def test_an_episode_and_a_query_give_alone_what_they_give_together(mining):
    features, priors, source, mask = _case()
    together = _mine(mining, features, priors, source, mask)
    for episode in range(N_EPISODES):
        for query in range(N_QUERIES):
            e, q = slice(episode, episode + 1), slice(query, query + 1)
            alone = _mine(mining, features[e, q], [prior[e, q] for prior in priors], source[e], mask[e])
            torch.testing.assert_close(alone, tuple(x[e, q] for x in together))


def test_the_order_of_the_source_does_not_matter(mining):
    features, priors, source, mask = _case()
    order = torch.randperm(N_SOURCE, generator=torch.Generator().manual_seed(5))
    expected = _mine(mining, features, priors, source, mask)
    torch.testing.assert_close(_mine(mining, features, priors, source[..., order], mask[:, order]), expected)


def test_a_repeated_source_counts_as_once(mining):
    features, priors, source, mask = _case()
    twice = _mine(mining, features, priors, torch.cat([source] * 2, dim=2), torch.cat([mask] * 2, dim=1))
    torch.testing.assert_close(twice, _mine(mining, features, priors, source, mask))


def test_inputs_stay_as_they_were(mining):
    features, priors, source, mask = _case()
    tensors = (features, *priors, source, mask)
    copies = [tensor.clone() for tensor in tensors]
    _mine(mining, features, priors, source, mask)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))
