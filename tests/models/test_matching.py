"""POEM's expansion, matching maps and decoders against their formulas."""

import pytest
import torch

from models.matching import Decoder, ExpansionMatching, match
from models.similarity import Similarity, sharpness
from tests.models import literal
from tests.models.prototype_cases import one_shot

N_EPISODES, N_QUERIES, WIDTH, GRID = 2, 3, 5, (6, 7)
VALID = torch.tensor([[True, False, True, True], [False] * 4])
MATCHED, POOLED, SUMMED, GLOBAL = slice(WIDTH, 2 * WIDTH), -3, -2, -1


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _prototypes(seed, valid=VALID):
    return one_shot(
        global_=_random(N_EPISODES, WIDTH, seed=seed),
        region=_random(N_EPISODES, valid.shape[1], WIDTH, seed=seed + 1),
        valid=valid,
    )


def _match(similarity, prototypes, mined, tau_query):
    """The matching maps with the support's prototypes as they are."""
    n_queries = mined.shape[1]
    return match(
        similarity,
        mined,
        global_=prototypes.global_[:, None].expand(-1, n_queries, -1),
        region=prototypes.region[:, None].expand(-1, n_queries, -1, -1),
        valid=prototypes.valid[:, None],
        factor=sharpness(tau_query),
        n_shots=prototypes.n_shots,
    )


def _case():
    mined = _random(N_EPISODES, N_QUERIES, WIDTH, *GRID)
    return Similarity().double(), _prototypes(10), mined, _random(N_EPISODES, N_QUERIES, 2, seed=3)


def test_two_prototypes_give_the_hand_computed_maps():
    # cos is 1 and 0, so with magnitude off and k = 1 + 10 / 2 = 6 the weights are e^6 : 1.
    region = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    maps = match(
        Similarity(magnitude=False).double(),
        torch.tensor([2.0, 0.0], dtype=torch.float64).view(1, 1, 2, 1, 1),
        global_=torch.tensor([3.0, 4.0], dtype=torch.float64).view(1, 1, 2),
        region=region[None, None],
        valid=torch.ones(1, 1, 2, dtype=torch.bool),
        factor=sharpness(torch.zeros(1, 1, 2, dtype=torch.float64)),
        n_shots=1,
    )
    first = torch.tensor(6.0, dtype=torch.float64).sigmoid().item()
    assert maps.flatten().tolist() == pytest.approx([2, 0, first, 1 - first, first, 1, 0.6])


@pytest.mark.parametrize("magnitude", [True, False])
def test_maps_equal_the_literal_ones(magnitude):
    similarity, prototypes, mined, tau_query = _case()
    similarity.magnitude = magnitude
    maps = _match(similarity, prototypes, mined, tau_query)
    assert maps.shape == (N_EPISODES, N_QUERIES, 2 * WIDTH + 3, *GRID)
    for episode in range(N_EPISODES):
        for query in range(N_QUERIES):
            expected = literal.matching_maps(
                prototypes.global_[episode],
                prototypes.region[episode][VALID[episode]],
                mined[episode, query],
                alpha=similarity.alpha,
                tau_query=tau_query[episode, query],
                magnitude=magnitude,
            )
            torch.testing.assert_close(maps[episode, query], expected)


def test_sums_over_no_region_prototype_are_zero():
    maps = _match(*_case())
    without = maps[1]
    assert without[:, MATCHED].eq(0).all()
    assert without[:, [POOLED, SUMMED]].eq(0).all()
    assert without[:, GLOBAL].ne(0).all()


def test_repeated_region_prototypes_double_the_plain_sum_and_nothing_else():
    similarity, once, mined, tau_query = _case()
    twice = one_shot(once.global_, *(torch.cat([x] * 2, dim=1) for x in (once.region, once.valid)))
    expected = _match(similarity, once, mined, tau_query)
    expected[:, :, SUMMED] *= 2
    torch.testing.assert_close(_match(similarity, twice, mined, tau_query), expected)


def test_gradients_of_the_maps_equal_the_literal_ones():
    similarity, prototypes, mined, tau_query = _case()
    of_first = (prototypes.global_, prototypes.region, mined, tau_query)
    inputs = (*(x.requires_grad_() for x in of_first), similarity.alpha)
    maps = _match(similarity, prototypes, mined, tau_query)
    expected = literal.matching_maps(
        prototypes.global_[0],
        prototypes.region[0][VALID[0]],
        mined[0, 0],
        alpha=similarity.alpha,
        tau_query=tau_query[0, 0],
    )
    cotangent = _random(*expected.shape, seed=4)
    got = torch.autograd.grad((maps[0, 0] * cotangent).sum(), inputs)
    torch.testing.assert_close(got, torch.autograd.grad((expected * cotangent).sum(), inputs))


def _matching(**kwargs):
    module = ExpansionMatching(feature_width=WIDTH, **kwargs).double().eval()
    for seed, parameter in enumerate(module.parameters()):
        torch.nn.init.normal_(parameter, 0.05, 0.4, generator=torch.Generator().manual_seed(seed))
    return module


def _matching_case():
    generator = torch.Generator().manual_seed(6)
    priors = [
        (torch.rand(N_EPISODES, N_QUERIES, *GRID, generator=generator) < share).double()
        for share in (0.5, 0.2)
    ]
    priors[1][0, 2] = 0
    mined = tuple(_random(N_EPISODES, N_QUERIES, WIDTH, *GRID, seed=seed) for seed in (7, 8))
    prototypes = (_prototypes(30, VALID.flip(0)), _prototypes(10))
    return prototypes, mined, tuple(priors), _random(N_EPISODES, N_QUERIES, 2, seed=9)


def _literal_logits(module, similarity, case, *, episode, query, expansion=True):
    prototypes, mined, priors, tau_query = case
    weights = {f"matching.{name}": value for name, value in module.named_parameters()}
    strength = tau_query[episode, query, 1]
    strengths = (module.expand_bg.weight[0, 0] * strength + module.expand_bg.bias[0], strength)
    logits = []
    for index, name in enumerate(("decoder_bg", "decoder_fg")):
        of_query = literal.query_prototype(mined[index][episode, query], priors[index][episode, query])
        step = torch.sigmoid(strengths[index]) * of_query if expansion else 0
        maps = literal.matching_maps(
            prototypes[index].global_[episode] + step,
            prototypes[index].region[episode][prototypes[index].valid[episode]] + step,
            mined[index][episode, query],
            alpha=similarity.alpha,
            tau_query=tau_query[episode, query],
        )
        logits.append(literal.decode(weights, name, maps))
    return torch.cat(logits)


@pytest.mark.parametrize("expansion", [True, False])
def test_logits_equal_the_literal_ones(expansion):
    module, similarity, case = _matching(expansion=expansion), Similarity().double(), _matching_case()
    prototypes, mined, priors, tau_query = case
    logits = module(similarity, prototypes, mined, priors, tau_query=tau_query)
    assert logits.shape == (N_EPISODES, N_QUERIES, 2, *GRID)
    for episode in range(N_EPISODES):
        for query in range(N_QUERIES):
            expected = _literal_logits(
                module, similarity, case, episode=episode, query=query, expansion=expansion
            )
            torch.testing.assert_close(logits[episode, query], expected)


def test_gradients_of_the_logits_equal_the_literal_ones():
    module, similarity, case = _matching(), Similarity().double(), _matching_case()
    prototypes, mined, priors, tau_query = case
    inputs = (
        *(x.requires_grad_() for x in (*mined, tau_query)),
        *module.parameters(),
        similarity.alpha,
    )
    logits = module(similarity, prototypes, mined, priors, tau_query=tau_query)
    expected = _literal_logits(module, similarity, case, episode=0, query=1)
    cotangent = _random(*expected.shape, seed=4)
    got = torch.autograd.grad((logits[0, 1] * cotangent).sum(), inputs)
    torch.testing.assert_close(got, torch.autograd.grad((expected * cotangent).sum(), inputs))


def test_an_empty_prior_expands_nothing():
    similarity, (prototypes, mined, priors, tau_query) = Similarity().double(), _matching_case()
    empty = tuple(prior * 0 for prior in priors)
    expanding, plain = _matching(), _matching(expansion=False)
    expected = plain(similarity, prototypes, mined, priors, tau_query=tau_query)
    got = expanding(similarity, prototypes, mined, empty, tau_query=tau_query)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(expanding(similarity, prototypes, mined, priors, tau_query=tau_query), expected)


def test_matching_leaves_its_inputs_as_they_were():
    prototypes, mined, priors, tau_query = _matching_case()
    tensors = (*(x for p in prototypes for x in (p.global_, p.region)), *mined, *priors, tau_query)
    copies = [tensor.clone() for tensor in tensors]
    _matching()(Similarity().double(), prototypes, mined, priors, tau_query=tau_query)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))


def test_decoder_has_the_published_layers():
    decoder = Decoder(feature_width=512)
    shapes = {name: tuple(parameter.shape) for name, parameter in decoder.named_parameters()}
    assert shapes == {
        "merge.0.weight": (512, 2 * 512 + 3, 1, 1),
        "res1.0.weight": (512, 512, 1, 1),
        "res2.0.weight": (512, 512, 3, 3),
        "res2.2.weight": (512, 512, 3, 3),
        "cls.0.weight": (512, 512, 3, 3),
        "cls.3.weight": (1, 512, 1, 1),
    }
    dropouts = [m.p for m in decoder.modules() if isinstance(m, torch.nn.Dropout2d)]
    assert dropouts == [0.2, 0.1]


def test_the_classes_have_separate_decoders():
    module = _matching()
    shared = {id(p) for p in module.decoder_bg.parameters()} & {id(p) for p in module.decoder_fg.parameters()}
    assert not shared


def test_dropout_takes_whole_channels_in_training_and_none_in_evaluation():
    decoder, maps = Decoder(feature_width=64), torch.ones(1, 131, 5, 5)
    torch.nn.init.constant_(decoder.merge[0].weight, 0.01)
    torch.manual_seed(0)
    merged = decoder.train().merge(maps)
    dropped = merged.eq(0).flatten(2)
    assert dropped.all(dim=2).sum() == dropped.any(dim=2).sum() > 0
    assert torch.equal(decoder.eval()(maps), decoder(maps))
