"""Snapshots, weights and runs that cannot be used cost one line, and no code in them is run."""

import pytest
import torch
from torch import nn

from data.supervoxels.__main__ import main as make_supervoxels
from models.encoder import BACKBONES
from tests.bad_inputs import QUICK, Trap, evaluate, refusal, set_trap, train

pytestmark = pytest.mark.usefixtures("narrow_encoder")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def trap(path):
    torch.save({"weights": Trap(path.with_name("ran"))}, path)


def set_plain_trap(path):
    set_trap(path, path.with_name("ran"))


DAMAGED = "snapshot_000003.pt: is damaged or not a snapshot ("
SNAPSHOTS = {
    "cut off": (cut, DAMAGED),
    "empty": (lambda path: path.write_bytes(b""), DAMAGED),
    "text": (lambda path: path.write_text("hello"), DAMAGED),
    "a flipped bit": (flip, DAMAGED),
    "code": (trap, DAMAGED),
    "plain pickle with code": (set_plain_trap, DAMAGED),
}


@pytest.mark.parametrize(("damage", "message"), SNAPSHOTS.values(), ids=SNAPSHOTS)
def test_a_snapshot_that_cannot_be_read(workspace, capsys, damage, message):
    damage(workspace.loosen(workspace.snapshot))
    line = refusal(lambda: evaluate(*workspace.words, *QUICK, workspace.reload), capsys, workspace.root)
    assert message in line
    assert "use another snapshot" in line
    assert not workspace.snapshot.with_name("ran").exists()


def without_first_weight(content):
    del content["weights"][next(iter(content["weights"]))]


CHANGES = {
    "another encoder": (
        lambda c: c["config"]["model"].update(encoder="resnet50"),
        "does not fit the network",
    ),
    "unknown encoder": (
        lambda c: c["config"]["model"].update(encoder="vit"),
        "model.encoder='vit': must be one of",
    ),
    "another norm": (lambda c: c["config"]["model"].update(norm="group"), "does not fit the network"),
    "a lost weight": (
        without_first_weight,
        "does not fit the network: encoder.backbone.conv1.weight differs",
    ),
    "no weights": (lambda c: c["weights"].clear(), "does not fit the network"),
    "NaN": (
        lambda c: c["weights"].update({name: value * float("nan") for name, value in c["weights"].items()}),
        "must be finite",
    ),
    "a newer format": (lambda c: c.update(format=2), "has snapshot format 2, this version reads 1"),
    "no model": (lambda c: c["config"].pop("model"), "is not usable"),
    "a seed of text": (lambda c: c["config"].update(seed="x"), "config.seed must be a whole number"),
    "a size of text": (
        lambda c: c["config"].update(image_size_px="big"),
        "image_size_px must be two whole numbers",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_snapshot_of_something_else(workspace, capsys, change, message):
    content = torch.load(workspace.snapshot, weights_only=True)
    change(content)
    torch.save(content, workspace.loosen(workspace.snapshot))
    assert message in refusal(
        lambda: evaluate(*workspace.words, *QUICK, workspace.reload), capsys, workspace.root
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("reload_model_path=gone.pt", "reload_model_path=gone.pt: no such snapshot or run folder"),
        ("model.encoder=resnet50", "model.encoder=resnet50: the snapshot was trained with resnet18; leave"),
        ("model.feature_width=16", "model.feature_width=16: the snapshot was trained with 8; leave"),
        ("model.norm=group", "model.norm=group: the snapshot was trained with batch; leave model.norm out"),
    ],
)
def test_a_snapshot_that_was_not_meant(workspace, capsys, word, message):
    assert message in refusal(lambda: evaluate(*workspace.words, word), capsys, workspace.root)


def test_a_snapshot_of_another_dataset_or_fold_is_said_to_be(workspace, capsys):
    content = torch.load(workspace.snapshot, weights_only=True)
    content["config"].update(dataset="CHAOST2", eval_fold=3)
    torch.save(content, workspace.loosen(workspace.snapshot))
    assert evaluate(*workspace.words, *QUICK, workspace.reload) == 0
    output = capsys.readouterr().out
    assert "warning: the snapshot was trained with dataset=CHAOST2, not PHANTOM" in output
    assert "warning: the snapshot was trained with eval_fold=3, not 0" in output


def resnet(prefix="", without=(), **changes):
    """A ResNet-18's state dict in a small file: one number stands for all of a tensor."""
    shapes = BACKBONES["resnet18"](norm_layer=nn.BatchNorm2d).state_dict()
    remaining = {name: value for name, value in shapes.items() if not name.startswith(tuple(without))}
    return {
        prefix + name: torch.zeros((), dtype=value.dtype).expand(value.shape)
        for name, value in remaining.items()
    } | changes


LAYER3 = "lacks 15 of the encoder's tensors (layer3.0.bn1.bias, layer3.0.bn1.running_mean, layer3.0.bn1.runn"
WEIGHTS = {
    "a block missing": (lambda: resnet(without=["layer3"]), LAYER3),
    "a segmenter's block missing": (lambda: resnet("backbone.", without=["layer3", "fc"]), LAYER3),
    "foreign names": (lambda: resnet("net."), "lacks 62 of the encoder's tensors (bn1.bias, "),
    "unknown tensors": (
        lambda: resnet(**{"x.weight": torch.zeros(2)}),
        "has 1 tensor(s) that the encoder lacks (x.weight)",
    ),
    "another shape": (
        lambda: resnet(**{"conv1.weight": torch.zeros(2)}),
        "has other shapes for 1 of the encoder's tensors (conv1.weight)",
    ),
    "whole numbers": (
        lambda: resnet(**{"bn1.bias": resnet()["bn1.bias"].long()}),
        "has no plain finite numbers in 1 of the encoder's tensors (bn1.bias)",
    ),
    "NaN": (lambda: resnet(**{"bn1.bias": resnet()["bn1.bias"] * torch.nan}), "finite numbers in 1 of"),
    "a list": (
        lambda: [1, 2],
        "must hold a state dict (names to tensors), as torch.save(net.state_dict()), got list",
    ),
    "a training's file": (
        lambda: {"state_dict": {}, "epoch": 3},
        "net.state_dict()), got keys state_dict, epoch",
    ),
    "numbers for names": (lambda: {1: torch.zeros(2)}, "must hold a state dict (names to tensors)"),
}


@pytest.mark.parametrize(("content", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_encoder_weights_that_do_not_fit(workspace, capsys, content, message):
    path = workspace.root / "weights.pth"
    torch.save(content(), path)
    line = refusal(lambda: train(*workspace.words, f"model.encoder_weights={path}"), capsys, workspace.root)
    assert str(path) in line
    assert message in line


@pytest.mark.parametrize("damage", [cut, flip, trap, set_plain_trap, lambda path: path.write_text("<html>")])
def test_encoder_weights_that_cannot_be_read(workspace, capsys, damage):
    path = workspace.root / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    damage(path)
    line = refusal(lambda: train(*workspace.words, f"model.encoder_weights={path}"), capsys, workspace.root)
    assert line.startswith(f"{path}: is damaged or not a file of weights (")
    assert not path.with_name("ran").exists()
    assert not (workspace.runs / "3").exists()


@pytest.mark.parametrize("name", ["gone.pth", "data"])
def test_encoder_weights_that_are_not_there(workspace, capsys, name):
    word = f"model.encoder_weights={workspace.root / name}"
    output = f"{word}: must be deeplabv3_coco, imagenet, None or an existing file"
    assert output in refusal(lambda: train(*workspace.words, word), capsys, workspace.root)


def damage_config(text):
    return lambda workspace: workspace.loosen(workspace.runs / "2" / "config.json").write_text(text)


def damage_checkpoints(how):
    return lambda workspace: [
        how(workspace.loosen(path)) for path in list((workspace.runs / "2" / "checkpoints").iterdir())
    ]


RESUMPTIONS = {
    "no such run": ("7", lambda workspace: None, "resume=7: no such run folder ("),
    "no run": (
        "{root}/data",
        lambda workspace: None,
        "/data holds no checkpoint; start a new training without resume",
    ),
    "a file": (
        "{root}/runs/PHANTOM/fold_0/training/1/run.json",
        lambda workspace: None,
        "is a file, not a run folder",
    ),
    "checkpoints cut off": (
        "latest",
        damage_checkpoints(cut),
        "training/2: holds no checkpoint that can be read (",
    ),
    "checkpoints with code": (
        "2",
        damage_checkpoints(trap),
        "training/2: holds no checkpoint that can be read (",
    ),
    "record lost": (
        "latest",
        lambda workspace: (workspace.runs / "2/config.json").unlink(),
        "config.json: cannot be read (",
    ),
    "record broken": ("latest", damage_config('{"a'), "config.json: cannot be read ("),
    "record deep": ("latest", damage_config("[" * 100_000), "config.json: cannot be read ("),
    "record a list": (
        "2",
        damage_config("[]"),
        "config.json: must be a JSON object; start a new training",
    ),
    "record wrong": ("2", damage_config('{"optim": {"lr": "x"}}'), "config.json: optim.lr='x': must be"),
}


@pytest.mark.parametrize(("resume", "damage", "message"), RESUMPTIONS.values(), ids=RESUMPTIONS)
def test_a_run_that_cannot_be_resumed(workspace, capsys, resume, damage, message):
    damage(workspace)
    word = f"resume={resume.format(root=workspace.root)}"
    line = refusal(lambda: train(*workspace.words, word), capsys, workspace.root)
    assert message in line
    assert not (workspace.runs / "2" / "checkpoints" / "ran").exists()


def test_a_run_of_another_dataset_or_fold_is_not_resumed(workspace, capsys):
    word = f"resume={workspace.runs / '2'}"
    line = refusal(lambda: train(*workspace.words, "eval_fold=1", word), capsys, workspace.root)
    assert f"{workspace.runs / '2'}: was trained with eval_fold: 0, now 1; leave that out" in line
    words = workspace.make_own()
    line = refusal(lambda: train(*words, word), capsys, workspace.root)
    assert "was trained with dataset: PHANTOM, now Hips" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "Nope"], "dataset=Nope: must be CHAOST2, SABS, CMR, PHANTOM, or a custom dataset"),
        (["--dataset", "CMR"], "no such folder; put the prepared CMR volumes there"),
        (["--dataset", "PHANTOM", "--workers", "0"], "supervoxel workers: must be at least 1, got 0"),
        (
            ["--dataset", "PHANTOM", "--min-size", "0"],
            "supervoxel min size: must be a whole number of at least 1",
        ),
        (["--dataset", "PHANTOM", "--scale", "nan", "--min-size", "9"], "supervoxel scale: must be positive"),
    ],
)
def test_supervoxels_that_cannot_be_made(workspace, capsys, words, message):
    data_dir = ["--data-dir", str(workspace.root / "data")]
    assert message in refusal(lambda: make_supervoxels([*words, *data_dir]), capsys, workspace.root)
