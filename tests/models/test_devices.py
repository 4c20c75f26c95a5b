"""No module of the network knows a device."""

import ast
from pathlib import Path

import pytest

import models
from models.few_shot_seg import FewShotSeg
from tests.models.episodes import make_batch


def test_everything_is_made_on_the_inputs_device():
    # On the meta device, a tensor made on the CPU by oversight cannot be mixed in.
    model = FewShotSeg(encoder="resnet18", feature_width=4).to("meta")
    batch = [tensor.float().to("meta") for tensor in make_batch(2, 2, 3)]
    losses = model(*batch)
    devices = {losses.query.device.type, losses.alignment.device.type, losses.prior_areas.device.type}
    assert devices == {"meta"}
    assert model.predict(*batch[:3]).shape == (2, 3, 2, 65, 71)


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


def test_there_are_sources_to_look_at():
    assert {"few_shot_seg.py", "prototypes.py"} <= {path.name for path in SOURCES}
