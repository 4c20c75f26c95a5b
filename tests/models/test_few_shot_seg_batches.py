"""Episodes, shots and queries side by side: each result is what it would be alone."""

import pytest
import torch

from models.prototypes import extract_prototypes
from tests.models.small_network import losses_of, make_batch, make_network

SWITCHES = ("magnitude", "prior", "mining", "expansion")


@pytest.mark.parametrize("switch", [None, *SWITCHES])
def test_an_episode_alone_gives_what_it_gives_in_a_batch(switch):
    model, batch = make_network(**({switch: False} if switch else {})), make_batch(3, 2)
    batch[1][1] = 0
    with torch.no_grad():
        losses, probabilities = losses_of(model, *batch), model.predict(*batch[:3])
        for episode in range(3):
            alone = [tensor[episode, None] for tensor in batch]
            torch.testing.assert_close(model.predict(*alone[:3])[0], probabilities[episode])
            torch.testing.assert_close(losses_of(model, *alone).query[0], losses.query[episode])
            torch.testing.assert_close(losses_of(model, *alone).alignment[0], losses.alignment[episode])


def test_training_draws_make_an_episode_depend_on_its_own_seed_alone(model):
    batch = make_batch(2, 1, size_px=(129, 121))  # more than 150 background windows
    with torch.no_grad():
        together = losses_of(model, *batch, prototype_seeds=torch.tensor([3, 40]))
        alone = [t[1, None] for t in batch]
        again = losses_of(model, *alone, prototype_seeds=torch.tensor([40]))
        other = losses_of(model, *alone, prototype_seeds=torch.tensor([50]))
    torch.testing.assert_close(again.query[0], together.query[1])
    torch.testing.assert_close(again.alignment[0], together.alignment[1])
    assert not torch.equal(again.query, other.query)


def test_training_draws_in_both_directions_and_for_both_classes_with_separate_seeds(model, monkeypatch):
    used = []

    def extract(features, masks, *, area_limit, seeds):
        used.append(seeds.item())
        return extract_prototypes(features, masks, area_limit=area_limit, seeds=seeds)

    monkeypatch.setattr("models.few_shot_seg.extract_prototypes", extract)
    with torch.no_grad():
        losses_of(model, *make_batch(1, 1), prototype_seeds=torch.tensor([3]))
    assert len(set(used)) == 4


def test_a_query_alone_gives_what_it_gives_among_others(model):
    support, masks, query, _ = make_batch(2, 2, 3)
    with torch.no_grad():
        together = model.predict(support, masks, query)
        for index in range(3):
            alone = model.predict(support, masks, query[:, index, None])
            torch.testing.assert_close(alone[:, 0], together[:, index])


def test_a_support_prepared_once_serves_every_query(model):
    support, masks, query, _ = make_batch(1, 2, 3)
    with torch.no_grad():
        state = model.prepare_support(model.encoder.encode(support), masks)
        expected = model.predict(support, masks, query)
        for index in range(3):
            encoded = model.encoder.encode(query[:, index, None])
            result = model.segment(state, encoded, image_size=query.shape[-2:])
            torch.testing.assert_close(result.probabilities[:, 0], expected[:, index])


def test_the_order_of_the_shots_does_not_matter(model):
    support, masks, query, query_masks = make_batch(1, 3)
    order = [2, 0, 1]
    with torch.no_grad():
        expected = model.predict(support, masks, query)
        torch.testing.assert_close(model.predict(support[:, order], masks[:, order], query), expected)
        losses = losses_of(model, support, masks, query, query_masks)
        permuted = losses_of(model, support[:, order], masks[:, order], query, query_masks)
    torch.testing.assert_close(permuted.alignment, losses.alignment)


def test_every_shot_counts(model):
    support, masks, query, _ = make_batch(1, 3)
    with torch.no_grad():
        expected = model.predict(support, masks, query)
        for shot in range(3):
            others = [s for s in range(3) if s != shot]
            assert (model.predict(support[:, others], masks[:, others], query) - expected).abs().max() > 1e-4


def test_a_repeated_shot_counts_as_once_but_in_the_plain_sum():
    # Not so with a prior: its pooling sees every region twice beside one global prototype.
    model = make_network(prior=False)
    support, masks, query, _ = make_batch()
    with torch.no_grad():
        for decoder in (model.matching.decoder_bg, model.matching.decoder_fg):
            decoder.merge[0].weight[:, -2] = 0  # the plain sum's channel
        once = model.predict(support, masks, query)
        twice = model.predict(support.repeat(1, 2, 1, 1, 1), masks.repeat(1, 2, 1, 1), query)
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-6)


def test_probabilities_are_probabilities_of_the_image_size(model):
    support, masks, query, _ = make_batch(2, 1, 3)
    with torch.no_grad():
        probabilities = model.predict(support, masks, query)
    assert probabilities.shape == (2, 3, 2, 65, 71)
    assert probabilities.min() >= 0
    torch.testing.assert_close(probabilities.sum(dim=2), torch.ones(2, 3, 65, 71, dtype=torch.float64))


def test_prior_areas_are_the_masks_shares(model):
    batch = make_batch(2, 1, 2)
    with torch.no_grad():
        areas = losses_of(model, *batch).prior_areas
        support, masks, query, _ = batch
        state = model.prepare_support(model.encoder.encode(support), masks)
        result = model.segment(state, model.encoder.encode(query), image_size=(65, 71)).prior_masks
    shares = [m.mean().item() for m in (result.raw_background, result.raw_foreground)]
    shares += [m.mean().item() for m in (result.background, result.foreground)]
    assert areas.tolist() == pytest.approx(shares, rel=1e-5)
    assert not areas.requires_grad


def test_a_mask_of_any_dtype_means_the_same(model):
    support, masks, query, _ = make_batch()
    with torch.no_grad():
        expected = model.predict(support, masks, query)
        for dtype in (torch.bool, torch.uint8, torch.int64, torch.float32):
            assert torch.equal(model.predict(support, masks.to(dtype), query), expected)
