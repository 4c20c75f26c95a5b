"""Compiled parts give what the plain ones give, under the same names.

The compiler's last stage, which makes kernels, would take a minute; what differs between networks, the
tracing of forward and backward pass, is all before it.
"""

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters
from torchvision.models.resnet import BasicBlock

from models.encoder import BACKBONES
from models.factory import build_network
from models.few_shot_seg import FewShotSeg
from models.resnet import ResNetBackbone
from tests.models.small_network import losses_of, make_batch


@pytest.fixture(autouse=True)
def _traced_only(monkeypatch):
    """Have all parts traced, and their kernels left as they are."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_module(module, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(name="shallow", autouse=True)
def _shallow(monkeypatch):
    """Give each stage one block, which has all that is traced."""

    def build(**options):
        return ResNetBackbone(BasicBlock, [1, 1, 1, 1], **options)

    monkeypatch.setitem(BACKBONES, "resnet18", build)


def _network(*, compiled, **options):
    model = build_network(seed=1, encoder_weights=None, encoder="resnet18", feature_width=8, **options)
    if compiled:
        model.compile_parts()
    return model.train()


def _step(model, batch):
    """Losses, gradients and the state after one training step, with the same dropout for all."""
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    losses = losses_of(model, *batch, prototype_seeds=torch.tensor([1, 2]))
    (losses.query + losses.alignment).mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return losses, gradients, {name: value.clone() for name, value in model.state_dict().items()}


def _assert_equal(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(
            tensor, expected[name], rtol=0, atol=1e-5 * scale, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("recompute", [False, True])
def test_losses_gradients_and_statistics_equal_the_plain_ones(recompute):
    batch = [tensor.float() for tensor in make_batch(2, size_px=(32, 32))]
    plain, gradients, state = _step(_network(compiled=False), batch)
    losses, compiled_gradients, compiled_state = _step(
        _network(compiled=True, activation_checkpointing=recompute), batch
    )
    torch.testing.assert_close(losses.query, plain.query, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.alignment, plain.alignment, rtol=1e-5, atol=0)
    _assert_equal(compiled_gradients, gradients)
    _assert_equal(compiled_state, state)
    # Encoder and decoders are one graph each; the two decoders may share theirs.
    assert counters["stats"]["unique_graphs"] in (2, 3)
    assert not counters["graph_break"]


def test_compiling_changes_no_name_in_the_state_dict():
    with torch.device("meta"):
        model = FewShotSeg(encoder="resnet18", feature_width=4)
    names = list(model.state_dict())
    model.compile_parts()
    assert list(model.state_dict()) == names
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    assert compiled == {"encoder", "matching.decoder_bg", "matching.decoder_fg"}
