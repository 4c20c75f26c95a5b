"""A checkpoint is loaded only if every value is valid."""

import copy

import pytest
import torch

from util.engine.checkpoints import FORMAT, Checkpoint, load_checkpoint, newest_checkpoint, save_checkpoint
from util.errors import UserError
from util.io.tensor_files import write_tensors


def _checkpoint(step=3):
    torch.manual_seed(step)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(2, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    buffers = dict(network.named_buffers())
    return Checkpoint(
        step=step,
        config={"seed": 5, "model": {"encoder": "resnet18"}},
        weights=network.state_dict(),
        optimizer=optimizer.state_dict(),
        average={"weights": network.state_dict(), "n_updates": step},
        of_ranks=[{"buffers": buffers, "averaged_buffers": buffers, "meter": {"sum": None, "count": 0}}],
        history={"loss": {"steps": [1, 2], "values": [0.5, 0.25]}},
        n_skipped=0,
        origin={"data": "01", "environment": {"torch": "2", "threads": 1}},
    )


def _spoiled(tmp_path, key_path, value):
    """Write a checkpoint with another value at a place; return its path."""
    content = copy.deepcopy(vars(_checkpoint()))
    holder = content
    for key in key_path[:-1]:
        holder = holder[key]
    holder[key_path[-1]] = value
    path = tmp_path / "checkpoint_000003.pt"
    write_tensors(path, {"format": FORMAT, "kind": "checkpoint", **content})
    return path


def test_a_checkpoint_survives_saving_and_loading(tmp_path):
    saved = _checkpoint()
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved))
    assert (loaded.step, loaded.config, loaded.history) == (3, saved.config, saved.history)
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in saved.weights.items())
    momentum = loaded.optimizer["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, saved.optimizer["state"][0]["momentum_buffer"])


@pytest.mark.parametrize(
    ("key_path", "value", "field"),
    [
        (("step",), "3", "step"),
        (("step",), True, "step"),
        (("n_skipped",), -1, "n_skipped"),
        (("config",), [], "config"),
        (("config", "seed"), "5", r"config\.seed"),
        (("config", "model"), [], r"config\.model"),
        (("weights", "0.weight"), torch.full((2, 1, 3, 3), torch.nan), r"weights\.0\.weight must be finite"),
        (
            ("weights", "0.weight"),
            torch.zeros(2, 1, 3, 3).double(),
            r"weights\.0\.weight must be torch.float32",
        ),
        (("weights", "0.bias"), torch.zeros(1).expand(1 << 40), r"weights\.0\.bias must be a plain tensor"),
        (("weights", "0.bias"), "text", r"weights\.0\.bias must be a tensor"),
        (
            ("weights", "1.num_batches_tracked"),
            torch.tensor(1.0),
            r"weights\.1\.num_batches_tracked must be torch.int64",
        ),
        (("average", "weights", "0.bias"), torch.zeros(3), r"average\.weights\.0\.bias"),
        (("average", "n_updates"), 1.5, r"average\.n_updates"),
        (("optimizer",), {}, "optimizer must hold param_groups, state"),
        (("optimizer", "state", 0, "momentum_buffer"), torch.zeros(5), r"optimizer\.state\.0"),
        (("optimizer", "param_groups", 0, "momentum"), True, r"optimizer\.param_groups\.momentum"),
        (("optimizer", "param_groups", 0, "params"), None, r"optimizer\.param_groups\.params"),
        (("of_ranks",), [], "of_ranks"),
        (
            ("of_ranks", 0, "averaged_buffers", "1.running_mean"),
            torch.zeros(1),
            r"of_ranks\[0\]\.averaged_buffers",
        ),
        (("of_ranks", 0, "meter", "count"), 2, r"of_ranks\[0\]\.meter"),
        (("history", "loss", "values"), [0.5], r"history\.loss"),
        (("history", "loss", "steps", 0), "1", r"history\.loss\.steps"),
        (("origin", "environment", "threads"), None, r"origin\.environment"),
        (("origin", "data"), 1, r"origin\.data"),
    ],
)
def test_an_invalid_value_is_named(tmp_path, key_path, value, field):
    path = _spoiled(tmp_path, key_path, value)
    with pytest.raises(UserError, match=rf"checkpoint_.*\.pt: {field}") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(tmp_path):
    save_checkpoint(tmp_path, _checkpoint(step=2))
    path = save_checkpoint(tmp_path, _checkpoint(step=3))
    content = bytearray(path.read_bytes())
    offset = content.index(_checkpoint(step=3).weights["0.weight"].numpy().tobytes())
    content[offset] ^= 1
    path.write_bytes(content)
    result, remarks = newest_checkpoint(tmp_path)
    assert result.step == 2
    assert "checkpoint_000003.pt: is damaged" in remarks[0]
    assert remarks[1].endswith("checkpoint_000002.pt")
