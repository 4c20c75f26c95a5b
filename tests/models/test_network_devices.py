"""No module of the network knows a device."""

import ast
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import models
from models.few_shot_seg import FewShotSeg
from tests.models.small_network import losses_of, make_batch


class _OnlyMeta(TorchDispatchMode):
    """Refuse operations that give a tensor elsewhere than on meta, or in float64, which Metal lacks."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                raise AssertionError(f"{function} made a tensor on {tensor.device}")
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise AssertionError(f"{function} made a tensor in float64")
        return out


def test_everything_is_made_on_the_inputs_device():
    model = FewShotSeg(encoder="resnet18", feature_width=4).to("meta")
    batch = [tensor.float().to("meta") for tensor in make_batch(2, 2, 3)]
    with _OnlyMeta():
        losses = losses_of(model, *batch)
        probabilities = model.predict(*batch[:3])
    assert losses.query.shape == losses.alignment.shape == (2,)
    assert probabilities.shape == (2, 3, 2, 65, 71)


SOURCES = sorted(Path(models.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_names_a_device(path):
    tree = ast.parse(path.read_text())
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "cuda" not in attributes
    called = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in called:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name in {"to", "device"}:
            assert not any(isinstance(argument, ast.Constant) for argument in call.args), (
                f"line {call.lineno}"
            )


def test_there_are_sources_to_check():
    assert {"few_shot_seg.py", "prototypes.py"} <= {path.name for path in SOURCES}
