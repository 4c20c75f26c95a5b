"""The whole network against the literal one, fed with the same encoder's outputs, in float64."""

import pytest
import torch

from models.encoder import Encoded
from tests.models import literal, literal_network
from tests.models.prototype_cases import disc
from tests.models.small_network import WIDTH, losses_of, make_batch, make_network

SWITCHES = ("magnitude", "prior", "mining", "expansion")


def _encode(model, images, episode):
    encoded = model.encoder.encode(images[episode, None])
    return literal_network.Images(encoded.features[0], encoded.tau[0])


def _literal_network(model, **switches):
    return literal_network.Network({**dict(model.named_parameters())}, **switches)


def _literal_losses(model, batch, episode, **switches):
    support, support_masks, query, query_masks = batch
    return _literal_network(model, **switches).losses(
        _encode(model, support, episode),
        support_masks[episode],
        _encode(model, query, episode),
        query_masks[episode],
    )


def _compare_with_literal(model, batch, **switches):
    support, support_masks, query, _ = batch
    n_episodes, n_queries = query.shape[:2]
    with torch.no_grad():
        probabilities = model.predict(support, support_masks, query)
        for episode in range(n_episodes):
            shots, queries = _encode(model, support, episode), _encode(model, query, episode)
            for index in range(n_queries):
                expected, priors = _literal_network(model, **switches).segment(
                    shots,
                    support_masks[episode],
                    literal_network.Images(queries.features[index, None], queries.tau[index, None]),
                    tau_support=shots.tau.mean(dim=0),
                    size=query.shape[-2:],
                )
                torch.testing.assert_close(probabilities[episode, index], expected, rtol=0, atol=2e-6)
        return priors


@pytest.mark.parametrize("size_px", [(64, 64), (65, 71), (97, 83)])
def test_probabilities_equal_the_literal_ones(model, size_px):
    priors = _compare_with_literal(model, make_batch(size_px=size_px))
    assert (priors.mean(dim=(1, 2)) > 0.01).all()  # else the comparison would prove little


def test_probabilities_after_a_real_encoder_equal_the_literal_ones():
    priors = _compare_with_literal(make_network(tiny=False), make_batch())
    assert (priors.mean(dim=(1, 2)) > 0.01).all()


def test_probabilities_of_several_episodes_shots_and_queries_equal_the_literal_ones(model):
    _compare_with_literal(model, make_batch(2, 3, 2))


@pytest.mark.parametrize("kind", ["empty", "full", "tiny", "at the bottom rest"])
def test_unusual_support_masks_give_the_literal_probabilities(model, kind):
    support, masks, query, query_masks = make_batch()
    masks = torch.full_like(masks, kind == "full")
    if kind == "tiny":
        masks[..., 30, 40:43] = 1
    elif kind == "at the bottom rest":
        masks[..., 64, 5:60] = 1
    _compare_with_literal(model, (support, masks, query, query_masks))


def test_an_image_smaller_than_a_window_gives_the_literal_probabilities(model):
    support, _, query, _ = make_batch(size_px=(15, 13))
    masks = disc((15, 13), (7, 6), 3)[None, None]
    _compare_with_literal(model, (support, masks, query, masks))


def test_each_class_has_its_own_area_limit_on_a_full_size_slice(model):
    # Only where a class covers more than 24,320 px do the limits of background and foreground differ.
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(1, 1, WIDTH, 65, 65, generator=generator, dtype=torch.float64)
    tau, mask = torch.zeros(1, 1, 2, dtype=torch.float64), disc((257, 257), (130, 120), 95)
    with torch.no_grad():
        state = model.prepare_support(Encoded(features=features, tau=tau), mask[None, None])
    for index, of_class in enumerate((1 - mask, mask)):
        n_counting = [len(literal.counting_windows(of_class, limit)) for limit in (0, 1)]
        assert n_counting[0] != n_counting[1]
        result = state.prototypes[index]
        expected = literal.region_prototypes(features[0, 0], of_class, index)
        torch.testing.assert_close(result.region[0][result.valid[0]], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_does_what_its_literal_counterpart_does(model, switch):
    batch, off = make_batch(), make_network(**{switch: False})
    _compare_with_literal(off, batch, **{switch: False})
    assert off.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert (off.predict(*batch[:3]) - model.predict(*batch[:3])).abs().max() > 1e-4


@pytest.mark.parametrize(("n_shots", "n_queries"), [(1, 1), (3, 1), (2, 2)])
def test_both_losses_equal_the_literal_ones(model, n_shots, n_queries):
    batch = make_batch(2, n_shots, n_queries)
    batch[3][0, 0, :9] = 255
    with torch.no_grad():
        losses = losses_of(model, *batch)
        for episode in range(2):
            query_loss, alignment = _literal_losses(model, batch, episode)
            assert losses.query[episode].item() == pytest.approx(query_loss.item(), abs=2e-6)
            assert losses.alignment[episode].item() == pytest.approx(alignment.item(), abs=2e-6)
    assert losses.alignment.gt(0).all()  # something was predicted


def test_gradients_of_both_losses_equal_the_literal_ones():
    model, batch = make_network(frozen_batchnorm=True), make_batch(1, 2)
    parameters = dict(model.named_parameters())
    losses = losses_of(model, *batch)
    got = torch.autograd.grad((losses.query + losses.alignment).sum(), parameters.values())
    support, support_masks, query, query_masks = batch
    images = model.encoder.encode(torch.cat([support, query], dim=1))
    expected_losses = _literal_network(model).losses(
        literal_network.Images(images.features[0, :2], images.tau[0, :2]),
        support_masks[0],
        literal_network.Images(images.features[0, 2:], images.tau[0, 2:]),
        query_masks[0],
    )
    expected = torch.autograd.grad(sum(expected_losses), parameters.values())
    for name, value, reference in zip(parameters, got, expected, strict=True):
        scale = reference.abs().max().item()
        assert (value - reference).abs().max().item() <= 1e-4 * scale + 1e-9, name
        assert scale > 0, name


def _always(model, name):
    """Make one class's decoder win everywhere."""
    with torch.no_grad():
        for decoder in (model.matching.decoder_bg, model.matching.decoder_fg):
            decoder.cls[3].weight.zero_()
        winner = getattr(model.matching, f"decoder_{name}")
        winner.cls[3].weight.fill_(1)
    return model


def test_alignment_costs_nothing_where_nothing_was_predicted():
    model = _always(make_network(), "bg")
    losses = losses_of(model, *make_batch(2, 2))
    assert losses.alignment.tolist() == [0, 0]
    assert losses.query.gt(0).all()
    (losses.query + losses.alignment).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_an_episode_without_prediction_leaves_its_neighbours_alignment_alone():
    model, batch = make_network(), make_batch(2)
    with torch.no_grad():
        expected = losses_of(model, *batch).alignment
        # The first episode's background wins everywhere.
        advantage = torch.tensor([[50.0, 0.0], [0.0, 0.0]], dtype=torch.float64)[:, None, :, None, None]
        model.matching.register_forward_hook(lambda _module, _inputs, logits: logits + advantage)
        alignment = losses_of(model, *batch).alignment
    assert alignment[0] == 0
    torch.testing.assert_close(alignment[1], expected[1])
    assert alignment[1] > 0


def test_alignment_of_an_image_all_foreground_is_the_literal_one():
    model, batch = _always(make_network(), "fg"), make_batch()
    with torch.no_grad():
        expected = _literal_losses(model, batch, 0)[1].item()
        assert losses_of(model, *batch).alignment.item() == pytest.approx(expected, abs=2e-6)
