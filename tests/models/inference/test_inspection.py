"""What an inspection shows is what the network computes."""

import pytest
import torch

from models.attention import attend
from models.factory import build_network
from models.few_shot_seg import FewShotSeg
from models.inference.inspection import attention_weights, inspect_query
from models.mining import InformationAggregation
from models.prototypes import FOREGROUND_AREA_LIMIT, choose_regions


def _slices(size=48):
    generator = torch.Generator().manual_seed(2)
    support, query = torch.randn(2, 1, size, size, generator=generator)
    mask = torch.zeros(size, size)
    mask[8:40, 8:32] = 1
    return support, mask, query


def _network(**options) -> FewShotSeg:
    return build_network(seed=1, encoder_weights=None, encoder="resnet18", feature_width=8, **options).eval()


def test_attention_weights_gather_what_the_attention_gathers():
    attention = InformationAggregation(feature_width=4)
    generator = torch.Generator().manual_seed(0)
    positions, source = torch.randn(2, 12, 4, generator=generator)
    mask = torch.rand(12, generator=generator)
    keys, values = attention.project(source)
    weights = attention_weights(attention, positions, keys, mask)
    expected = attend(
        attention.wq(positions)[None], keys[None], values[None], masks=mask[None, None], mu=attention.mu
    )
    torch.testing.assert_close(weights @ values, expected[0, 0])
    torch.testing.assert_close(weights.sum(-1), torch.ones(12))


def test_an_inspection_predicts_what_the_network_predicts():
    support, mask, query = _slices()
    model = _network()
    result = inspect_query(model, support, mask, query)
    with torch.no_grad():
        expected = model.predict(support[None, None], mask[None, None], query[None, None])[0, 0, 1]
    torch.testing.assert_close(result.probabilities, expected)
    height, width = result.prior_masks.foreground.shape[-2:]
    for attention in (result.support_attention, result.query_attention):
        assert attention.shape == (height, width)
        assert attention.mean().item() == pytest.approx(1, rel=1e-4)


def test_there_is_no_attention_without_predicted_foreground():
    model = _network()
    model.matching.decoder_fg.cls[-1].weight.data.zero_()
    model.matching.decoder_bg.cls[-1].weight.data.abs_()  # after a ReLU
    result = inspect_query(model, *_slices())
    assert not (result.probabilities > 0.5).any()
    assert result.support_attention is None
    assert result.query_attention is None


def test_there_is_no_attention_without_mining():
    assert inspect_query(_network(mining=False), *_slices()).support_attention is None


def test_regions_are_the_windows_that_lie_in_the_mask():
    mask = torch.zeros(1, 1, 48, 48)
    mask[..., 8:24, 16:40] = 1
    # Windows of 16 px every 8 px count from the mask area of min(243.2, 384 / 100) px on.
    tops, lefts = {0, 8, 16}, {8, 16, 24, 32}
    regions = choose_regions(mask, area_limit=FOREGROUND_AREA_LIMIT).tolist()
    assert sorted(regions) == sorted([top, left, 16] for top in tops for left in lefts)


def test_regions_of_a_tiny_mask_are_its_pixels():
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., 3, 4:6] = 1
    assert choose_regions(mask, area_limit=FOREGROUND_AREA_LIMIT).tolist() == [[3, 4, 1], [3, 5, 1]]
