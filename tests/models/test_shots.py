"""Several shots: equal ones give what one gives, different ones each have their share."""

import pytest
import torch

from models.prior_masks import PRIOR_FORMS
from models.prototypes import FOREGROUND_AREA_LIMIT, extract_prototypes
from tests.models.prototype_cases import disc, random_features
from tests.models.small_network import make_batch, make_network


@pytest.mark.parametrize("prior_form", PRIOR_FORMS)
@pytest.mark.parametrize("n_shots", [2, 3, 5])
@pytest.mark.parametrize("is_empty", [False, True])
def test_equal_shots_give_what_one_gives(prior_form, n_shots, is_empty):
    network = make_network(prior_form=prior_form)
    images, masks, queries, _ = make_batch(n_episodes=2)
    masks = masks * 0 if is_empty else masks
    repeated = images.expand(-1, n_shots, -1, -1, -1), masks.expand(-1, n_shots, -1, -1)
    with torch.inference_mode():
        once = network.predict(images, masks, queries)
        several = network.predict(*repeated, queries)
    torch.testing.assert_close(several, once, rtol=0, atol=1e-5)
    assert once.std() > 0


def test_each_shot_has_its_own_global_prototype_and_empty_ones_do_not_count():
    features = random_features(1, 3, 4, 8, 8)
    masks = torch.stack([disc((32, 32), (12, 12), 6), torch.zeros(32, 32), disc((32, 32), (20, 18), 9)])[None]
    prototypes = extract_prototypes(features, masks, area_limit=FOREGROUND_AREA_LIMIT)
    assert prototypes.shot_valid.tolist() == [[True, False, True]]
    for shot in (0, 2):
        alone = extract_prototypes(
            features[:, shot : shot + 1], masks[:, shot : shot + 1], area_limit=FOREGROUND_AREA_LIMIT
        )
        torch.testing.assert_close(prototypes.shot_global[:, shot], alone.global_)
    vectors, valid = prototypes.pool()
    assert vectors.shape[:2] == valid.shape == (1, 3 + prototypes.region.shape[1])


def test_if_all_masks_are_empty_every_shot_counts_as_a_single_one_does():
    masks = torch.zeros(1, 2, 32, 32)
    prototypes = extract_prototypes(random_features(1, 2, 4, 8, 8), masks, area_limit=FOREGROUND_AREA_LIMIT)
    assert prototypes.shot_valid.tolist() == [[True, True]]
    assert not prototypes.valid.any()
