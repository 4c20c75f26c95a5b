"""The attention without gradients equals the one with them, whatever the masks are made of."""

import pytest
import torch

from models import attention
from models.attention import attend

N, L, S, WIDTH = 2, 23, 37, 6
MU = torch.tensor([0.7], dtype=torch.float64)


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _masks(kind):
    """Masks (N, 2, S), of each sample its own."""
    draw = torch.rand(N, 2, S, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    hard = (draw < 0.4).double()
    disjoint = torch.stack([hard[:, 0], hard[:, 1] * (1 - hard[:, 0])], dim=1)
    rim = torch.where(draw[:, 0] > 0.8, draw[:, 0], hard[:, 0])
    return {
        "overlapping": hard,
        "disjoint": disjoint,
        "soft": draw,
        "complements with a soft rim": torch.stack([1 - rim, rim], dim=1),
        "empty": torch.zeros_like(hard),
        "full": torch.ones_like(hard),
        "one empty, one full": torch.stack([torch.zeros(N, S), torch.ones(N, S)], dim=1).double(),
    }[kind]


KINDS = (
    "overlapping",
    "disjoint",
    "soft",
    "complements with a soft rim",
    "empty",
    "full",
    "one empty, one full",
)


def _both_ways(scale, masks, dtype=torch.float64):
    queries, keys, values = ((scale**0.5 * _random(N, n, WIDTH, seed=n)).to(dtype) for n in (L, S, S + 1))
    values = values[:, :S].contiguous()
    expected = attend(queries.requires_grad_(), keys, values, masks=masks, mu=MU).detach()
    with torch.no_grad():
        return attend(queries, keys, values, masks=masks, mu=MU), expected


@pytest.mark.parametrize("piece", [1, 5 * S, 1 << 20])
@pytest.mark.parametrize("kind", KINDS)
def test_groups_give_what_the_plain_reading_gives(kind, piece, monkeypatch):
    monkeypatch.setattr(attention, "PIECE_ELEMENTS_CPU", piece)
    result, expected = _both_ways(1.0, _masks(kind))
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 100.0, 5000.0])
@pytest.mark.parametrize("kind", KINDS)
def test_tiny_and_huge_logits_neither_overflow_nor_vanish(kind, scale):
    result, expected = _both_ways(scale, _masks(kind).float(), torch.float32)
    assert result.isfinite().all()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4 * scale**0.5)


def test_logits_far_below_zero_are_no_loss_where_nothing_is_masked_out():
    queries, keys = torch.full((1, 3, 1), 20.0), torch.tensor([[[-30.0], [-31.0]]])
    values = torch.tensor([[[1.0], [5.0]]])
    with torch.no_grad():
        result = attend(queries, keys, values, masks=torch.ones(1, 1, 2), mu=MU.float())
    torch.testing.assert_close(result, torch.ones(1, 1, 3, 1), rtol=1e-6, atol=1e-6)


def test_masks_of_several_organs_are_grouped_two_by_two(monkeypatch):
    numbers = []
    make = attention._Source.__init__

    def counted(self, values, masks):
        numbers.append(len(masks))
        make(self, values, masks)

    monkeypatch.setattr(attention._Source, "__init__", counted)
    kinds = ("disjoint", "complements with a soft rim", "overlapping")
    masks = torch.cat([_masks(kind) for kind in kinds], dim=1)
    result, expected = _both_ways(1.0, masks[:, :5])
    assert numbers == [2, 2, 1] * N
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


def test_hand_computed_groups():
    # Logits 0 and ln 3; a mask that keeps the second: plain shares 1/4 and 3/4, masked ones the same, as the
    # first has logit 0 in any case. A mask that keeps the first alone makes both logits 0.
    queries, keys = torch.ones(1, 1, 1), torch.tensor([[[0.0], [3.0]]]).log().clamp(min=0)
    values = torch.tensor([[[0.0], [8.0]]])
    masks = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    with torch.no_grad():
        result = attend(queries, keys, values, masks=masks, mu=torch.tensor([0.5]))
    torch.testing.assert_close(result, torch.tensor([[[[6.0]], [[5.0]]]]))


def test_half_precision_agrees_to_its_digits():
    result, expected = _both_ways(1.0, _masks("complements with a soft rim").float(), torch.bfloat16)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected.float(), rtol=0.02, atol=0.02)


def test_soft_positions_alone_are_weighted_more_than_once(monkeypatch):
    sizes = []
    terms = attention._Source._terms

    def counted(self, logits, group):
        sizes.append(logits.shape[1])
        return terms(self, logits, group)

    monkeypatch.setattr(attention._Source, "_terms", counted)
    masks = torch.zeros(1, 2, S, dtype=torch.float64)
    masks[:, 0, :10], masks[:, 1, 10:12] = 1, 0.5
    queries, keys, values = (_random(1, n, WIDTH, seed=n) for n in (4, S, S))
    with torch.no_grad():
        attend(queries, keys, values, masks=masks, mu=MU)
    assert sum(sizes) == S + 2 * 2  # every position once, the two soft ones for each mask once more
