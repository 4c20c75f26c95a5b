"""Attention in pieces against the plain reading, which forms every map whole."""

import math

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import attention
from models.attention import attend

N_BATCHES, N_MASKS, N_QUERIES, N_KEYS, WIDTH = 2, 3, 7, 11, 5
ONE_ROW, THREE_ROWS, ALL_ROWS = 1, 3 * N_BATCHES * N_KEYS, 1 << 20
NAMES = ("queries", "keys", "values", "masks", "mu")


def _plain(queries, keys, values, masks, mu):
    """The definition: masked keys are made anew for each mask, and both softmaxes are formed whole."""
    gathered = []
    for mask in masks.unbind(1):
        masked_keys = mask[:, :, None] * keys
        attention = 0.5 * torch.softmax(queries @ keys.transpose(1, 2), dim=2)
        attention = attention + mu * torch.softmax(queries @ masked_keys.transpose(1, 2), dim=2)
        gathered.append(attention / (0.5 + mu) @ values)
    return torch.stack(gathered, dim=1)


def _masks(kind, generator, shape):
    soft = torch.rand(shape, generator=generator, dtype=torch.float64)
    return {"soft": soft, "hard": soft.round(), "empty": soft * 0, "full": soft * 0 + 1}[kind]


def _case(kind="soft", *, n_queries=N_QUERIES, n_keys=N_KEYS, width=WIDTH, mu=0.7):
    """Queries, keys, values, masks and mu in float64, with logits of unit size."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        normal(N_BATCHES, n_queries, width) / math.sqrt(width),
        normal(N_BATCHES, n_keys, width),
        normal(N_BATCHES, n_keys, width),
        _masks(kind, generator, (N_BATCHES, N_MASKS, n_keys)),
        torch.tensor([mu], dtype=torch.float64),
    )


def _call(function, inputs):
    if function is attend:
        return attend(*inputs[:3], masks=inputs[3], mu=inputs[4])
    return function(*inputs)


def _with_gradients(function, inputs):
    """Return the output and the gradients of all inputs, for one fixed cotangent."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    out = _call(function, inputs)
    generator = torch.Generator().manual_seed(5)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return out.detach(), torch.autograd.grad((out * cotangent).sum(), inputs)


@pytest.mark.parametrize(("mu", "expected"), [(0.5, 3.5), (1.5, 3.25), (0.0, 4.0)])
def test_two_keys_give_the_hand_computed_value(mu, expected):
    # Plain weights 2/3 and 1/3; with the first key masked out both logits are 0 and the weights equal.
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    keys = torch.tensor([[[math.log(2)], [0.0]]], dtype=torch.float64)
    values, masks = torch.tensor([[[6.0], [0.0]]]).double(), torch.tensor([[[0.0, 1.0]]]).double()
    out = attend(one, keys, values, masks=masks, mu=torch.tensor(mu, dtype=torch.float64))
    assert out.shape == (1, 1, 1, 1)
    assert out.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("limit", [ONE_ROW, THREE_ROWS, ALL_ROWS])
@pytest.mark.parametrize("kind", ["soft", "hard", "empty", "full"])
def test_values_and_all_gradients_equal_the_plain_ones_whatever_the_pieces(kind, limit, monkeypatch):
    monkeypatch.setattr(attention, "PIECE_ELEMENTS_CPU", limit)
    inputs = _case(kind)
    out, gradients = _with_gradients(attend, inputs)
    expected, of_plain = _with_gradients(_plain, inputs)
    assert out.shape == (N_BATCHES, N_MASKS, N_QUERIES, WIDTH)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-13)
    for name, value, reference in zip(NAMES, gradients, of_plain, strict=True):
        torch.testing.assert_close(
            value, reference, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}"
        )
        # A full mask makes both softmaxes equal, so that their mixture does not matter.
        assert reference.abs().max() > 1e-6 or (kind, name) == ("full", "mu")


@pytest.mark.parametrize(("limit", "sizes"), [(ONE_ROW, [1] * 7), (THREE_ROWS, [3, 3, 1]), (ALL_ROWS, [7])])
def test_pieces_cover_all_rows_once_and_keep_their_limit(limit, sizes, monkeypatch):
    monkeypatch.setattr(attention, "PIECE_ELEMENTS_CPU", limit)
    queries, _, _, masks = _case()[:4]
    pieces = list(attention._pieces(queries, masks[:, : attention.MASKS_PER_SOURCE]))
    assert [piece.stop - piece.start for piece in pieces] == sizes
    assert [row for piece in pieces for row in range(piece.start, piece.stop)] == list(range(N_QUERIES))


def test_single_precision_keeps_its_digits():
    inputs = _case()
    expected, of_plain = _with_gradients(_plain, inputs)
    out, gradients = _with_gradients(attend, [tensor.float() for tensor in inputs])
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-6)
    for value, reference in zip(gradients, of_plain, strict=True):
        torch.testing.assert_close(
            value.double(), reference, rtol=0, atol=3e-6 * reference.abs().max().item()
        )


def test_only_requested_gradients_are_returned():
    queries, keys, values, masks, mu = _case()
    queries.requires_grad_()
    out = attend(queries, keys, values, masks=masks, mu=mu)
    (gradient,) = torch.autograd.grad(out.square().sum(), queries)
    plain_queries = queries.detach().requires_grad_()
    (expected,) = torch.autograd.grad(
        _plain(plain_queries, keys, values, masks, mu).square().sum(), plain_queries
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def _half_case(common_size):
    """A case of bfloat16's digits whose keys share a common part, beside the same in float64."""
    queries, keys, values, masks, mu = _case(n_queries=40, n_keys=50, width=64)
    common = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    keys = keys + common_size * common
    rounded = [tensor.bfloat16() for tensor in (queries, keys, values)]
    halves = [*rounded, masks.float(), mu.float()]
    return halves, [tensor.double() for tensor in halves]


def _rounded_product(queries, keys, values, masks, mu):
    """What plain bfloat16 products give; softmaxes in float32."""
    logits = (queries @ keys.transpose(1, 2)).float()[:, None]
    attention = 0.5 * logits.softmax(-1) + mu * (logits * masks[:, :, None]).softmax(-1)
    attention = (attention / (0.5 + mu)).bfloat16()
    return (attention.flatten(1, 2) @ values).unflatten(1, attention.shape[1:3])


@pytest.mark.parametrize("common_size", [0.0, 10.0, 40.0])
def test_half_precision_is_exact_to_the_outputs_rounding(common_size):
    halves, wide = _half_case(common_size)
    expected = _plain(*wide)
    out = _call(attend, halves)
    assert out.dtype == torch.bfloat16
    error = (out.double() - expected).abs().max().item()
    assert error < 0.01 * expected.abs().max().item()


def test_a_common_part_of_the_keys_costs_plain_half_precision_its_digits_and_ours_not():
    halves, wide = _half_case(40.0)
    expected = _plain(*wide)

    def error(out):
        return (out.double() - expected).square().mean().sqrt().item()

    assert 10 * error(_call(attend, halves)) < error(_rounded_product(*halves))


@pytest.mark.parametrize("common_size", [0.0, 10.0, 40.0])
def test_gradients_in_half_precision_point_where_the_exact_ones_do(common_size):
    halves, wide = _half_case(common_size)
    _, gradients = _with_gradients(attend, halves)
    _, expected = _with_gradients(_plain, wide)
    for name, value, reference, half in zip(NAMES, gradients, expected, halves, strict=True):
        assert value.dtype == half.dtype
        error = (value.double() - reference).norm() / reference.norm()
        assert error < 0.01, name


class _LargestTensor(TorchDispatchMode):
    """Notes the most elements of any tensor that is made."""

    def __init__(self):
        super().__init__()
        self.n_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.n_elements = max(self.n_elements, leaf.numel())
        return out


def test_nothing_of_all_pairs_is_kept_for_the_backward_pass():
    n_queries, n_keys = 60, 70
    inputs = [t.requires_grad_() for t in _case(n_queries=n_queries, n_keys=n_keys)]
    saved = []

    def keep(tensor):
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _call(attend, inputs)
    assert {tensor.data_ptr() for tensor in saved} == {tensor.data_ptr() for tensor in inputs}
    assert max(tensor.numel() for tensor in saved) < n_queries * n_keys
    saved.clear()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _call(_plain, inputs)
    assert max(tensor.numel() for tensor in saved) >= N_BATCHES * n_queries * n_keys


def test_no_map_larger_than_a_piece_is_ever_formed(monkeypatch):
    n_queries, n_keys = 60, 70
    inputs = [t.requires_grad_() for t in _case(n_queries=n_queries, n_keys=n_keys)]
    n_rows = 5
    n_pairs_of_masks = 2  # the third mask counts as a pair
    piece = n_rows * n_pairs_of_masks * N_BATCHES * n_keys
    monkeypatch.setattr(attention, "PIECE_ELEMENTS_CPU", piece)
    with _LargestTensor() as largest:
        _call(attend, inputs).square().sum().backward()
    assert largest.n_elements == N_MASKS * n_rows * N_BATCHES * n_keys
    assert all(tensor.grad is not None for tensor in inputs)


def test_a_second_derivative_is_refused():
    inputs = [tensor.requires_grad_() for tensor in _case()]
    (gradient,) = torch.autograd.grad(_call(attend, inputs).square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_inputs_stay_as_they_were_in_both_passes():
    for inputs in (_case(), _half_case(1.0)[0]):
        copies = [tensor.clone() for tensor in inputs]
        _with_gradients(attend, inputs)
        out = _call(attend, [tensor.requires_grad_() for tensor in inputs])
        out.float().sum().backward()
        assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, copies, strict=True))
