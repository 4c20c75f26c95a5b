"""Valid inputs around a tiny phantom, and what a user does with them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import training
import validation
from config_ssl_upload import ModelConfig, dataset_defaults, parse_config
from data.datasets import find_spec
from data.fingerprint import write_fingerprint
from data.layout import DatasetLayout
from data.preparation import ensure_volumes, hash_volumes
from data.prepared_files import read_prepared_files
from data.supervoxels.__main__ import main as make_supervoxels
from data.supervoxels.supervoxel_records import supervoxel_record_path
from dataloaders.prepared_scans import load_scan
from tests.conftest import TINY
from tests.fuzzing.text_damages import digest_of
from util.config.command_line import run_command_line, run_guarded
from util.config.settings import default_values
from util.engine.checkpoints import Checkpoint, load_checkpoint, newest_checkpoint, save_checkpoint
from util.engine.snapshots import Snapshot, load_snapshot, load_weights, save_snapshot

SCAN_ID, MIN_SIZE_VOX = 1, 60  # of the scans of fold 0


def layout_of(inputs: Path) -> DatasetLayout:
    """Say where the phantom's files lie."""
    return DatasetLayout(find_spec("PHANTOM"), inputs / "data", inputs / "data", MIN_SIZE_VOX)


def _words(inputs, *words):
    fixed = [word for word in TINY if not word.startswith(("n_steps", "save_snapshot_every"))]
    folders = (f"path.PHANTOM.data_dir={inputs}/data", f"path.log_dir={inputs}/runs")
    return ["with", *fixed, "n_steps=3", "save_snapshot_every=1", *folders, *words]


def make_phantom_inputs(inputs: Path) -> None:
    """Write the phantom's volumes, supervoxels and fingerprint."""
    layout = layout_of(inputs)
    settings = parse_config(
        {**dataset_defaults("PHANTOM"), "phantom": {"n_scans": 10, "image_size_px": 48, "seed": 2025}}
    ).phantom.settings
    ensure_volumes(layout, phantom=settings, n_phantom_scans=10)
    assert _generate(inputs) == 0
    write_fingerprint(layout, n_workers=1)


def make_foreign_inputs(inputs: Path) -> None:
    """Take the supervoxels' records away, so that they are somebody else's."""
    make_phantom_inputs(inputs)
    for path in layout_of(inputs).supervoxels_dir.glob("*.record.json"):
        path.unlink()


def make_trained_inputs(inputs: Path) -> None:
    """Train for three steps, and keep the checkpoints as if the last had not been taken."""
    make_phantom_inputs(inputs)
    training.CheckpointManager.finish = lambda keeper: None
    assert run_command_line(training.experiment, _words(inputs)) == 0
    (inputs / "snapshot.pt").write_bytes((_run_dir(inputs) / "snapshots/snapshot_000003.pt").read_bytes())


def _run_dir(inputs, number=1):
    return inputs / f"runs/PHANTOM/fold_0/training/{number}"


def scan_files(inputs: Path, kind: str) -> Path:
    """Name the image, the labels, the supervoxels or their record of the scan that is damaged."""
    layout = layout_of(inputs)
    supervoxels = layout.supervoxel_path(SCAN_ID)
    return {
        "image": layout.image_path(SCAN_ID),
        "label": layout.label_path(SCAN_ID),
        "supervoxels": supervoxels,
        "record": supervoxel_record_path(supervoxels),
    }[kind]


def _guarded(find):
    results = []
    code = run_guarded(lambda: results.append(find()))
    return code, results[0] if results else ""


def load_volumes(inputs: Path) -> tuple[int, str]:
    """Load a scan for training and for its fingerprint."""

    def find():
        layout = layout_of(inputs)
        scan = load_scan(layout, SCAN_ID, with_labels=True, with_supervoxels=True)
        files = read_prepared_files(layout, SCAN_ID)
        arrays = (
            scan.image,
            scan.label_map,
            scan.supervoxels,
            files.image,
            files.label_map,
            files.supervoxels,
        )
        return f"{scan.geometry} {[digest_of(array) for array in arrays]}"

    return _guarded(find)


def _generate(inputs):
    words = ["--dataset", "PHANTOM", "--data-dir", f"{inputs}/data", "--min-size", str(MIN_SIZE_VOX)]
    return make_supervoxels([*words, "--workers", "1"])


def generate_and_load(inputs: Path) -> tuple[int, str]:
    """Bring the supervoxels up to date, then load the scan."""
    code = _generate(inputs)
    return load_volumes(inputs) if code == 0 else (code, "")


def make_volumes(inputs: Path) -> tuple[int, str]:
    """Bring the phantom up to date, and hash all of it."""

    def find():
        settings = parse_config(dataset_defaults("PHANTOM")).phantom.settings
        settings = replace(settings, image_size_px=48)
        ensure_volumes(layout_of(inputs), phantom=settings, n_phantom_scans=10)
        (inputs / "data/fingerprint.json").unlink(missing_ok=True)
        return hash_volumes(layout_of(inputs))

    return _guarded(find)


def look_up_hash(inputs: Path) -> tuple[int, str]:
    """Take the data's hash from the fingerprint, or make it."""
    return _guarded(lambda: hash_volumes(layout_of(inputs)))


def train(inputs: Path) -> tuple[int, str]:
    """Train a fold from the beginning."""
    return _trained(inputs, run_command_line(training.experiment, _words(inputs, "n_steps=1")), "1")


def resume(inputs: Path) -> tuple[int, str]:
    """Resume the training."""
    return _trained(inputs, run_command_line(training.experiment, _words(inputs, "resume=latest")), "3")


def _trained(inputs, code, step):
    if code:
        return code, ""
    run = max((inputs / "runs/PHANTOM/fold_0/training").glob("[0-9]*"), key=lambda path: int(path.name))
    snapshot = load_snapshot(run / f"snapshots/snapshot_{step:0>6}.pt")
    return code, str({name: digest_of(tensor.numpy()) for name, tensor in snapshot.weights.items()})


def evaluate(inputs: Path) -> tuple[int, str]:
    """Evaluate the snapshot on one organ."""
    fast = ("evaluation.all_slices=False", "evaluation.every_support=False", "evaluation.baselines=False")
    fast += ("evaluation.report=False",)
    selection = (
        "test_label=[1]",
        "evaluation.save_predictions=True",
        f"reload_model_path={inputs}/snapshot.pt",
    )
    code = run_command_line(validation.experiment, _words(inputs, *fast, *selection))
    if code:
        return code, ""
    run = inputs / "runs/PHANTOM/fold_0/evaluation/1"
    volumes = sorted((run / "predictions").rglob("*.nii.gz"))
    return code, (run / "scores.csv").read_text() + str(
        [digest_of(np.array(list(p.read_bytes()))) for p in volumes]
    )


def _small_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))


def _small_config():
    model = {**default_values(ModelConfig), "encoder": "resnet18", "encoder_weights": None}
    return {"dataset": "PHANTOM", "seed": 5, "image_size_px": None, "model": model, "n_steps": 3}


def make_small_snapshot(inputs: Path) -> None:
    """Write a snapshot of a network of three layers."""
    weights = _small_network().state_dict()
    versions = {"python": "3", "torch": "2"}
    save_snapshot(inputs / "snapshot.pt", Snapshot(3, weights, _small_config(), versions, data="0123"))


def load_small_snapshot(inputs: Path) -> tuple[int, str]:
    """Load the snapshot, its network's settings and its weights."""

    def find():
        snapshot = load_snapshot(inputs / "snapshot.pt")
        network = load_weights(_small_network(), snapshot)
        config = {name: snapshot.config.get(name) for name in ("seed", "image_size_px")}
        model = parse_config(
            {
                **dataset_defaults("PHANTOM"),
                "model": {**default_values(ModelConfig), **snapshot.config["model"]},
            }
        ).model
        tensors = {name: digest_of(tensor.numpy()) for name, tensor in network.state_dict().items()}
        return f"{tensors} {model} {config}" if "seed" in snapshot.config else ""

    return _guarded(find)


def make_small_checkpoints(inputs: Path) -> None:
    """Write checkpoints after two and three steps of a network of three layers."""
    network = _small_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for step in (2, 3):
        network(torch.ones(2, 1, 8, 8)).square().sum().backward()
        optimizer.step()
        buffers = dict(network.named_buffers())
        own = {"buffers": buffers, "meter": {"sum": torch.ones(3), "count": 1}, "averaged_buffers": buffers}
        checkpoint = Checkpoint(
            step=step,
            config=_small_config(),
            weights=network.state_dict(),
            optimizer=optimizer.state_dict(),
            average={"weights": network.state_dict(), "n_updates": step},
            of_ranks=[own],
            history={"loss": {"steps": list(range(step)), "values": [0.5] * step}},
            n_skipped=0,
            origin={"data": "0123", "environment": {"torch": "2", "threads": 1}},
        )
        save_checkpoint(inputs, checkpoint)


def load_small_checkpoint(inputs: Path) -> tuple[int, str]:
    """Load the newest checkpoint that can be read."""

    def find():
        checkpoint, remarks = newest_checkpoint(inputs)
        if not remarks:
            load_checkpoint(inputs / "checkpoints/checkpoint_000003.pt")
            return _described(checkpoint)
        return _described(checkpoint) if checkpoint.step == 3 else "the one before"

    return _guarded(find)


def _described(checkpoint):
    def plain(value):
        if isinstance(value, torch.Tensor):
            return digest_of(value.numpy())
        if isinstance(value, dict):
            return {name: plain(inner) for name, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(vars(checkpoint)), sort_keys=True, default=str)


def make_encoder_inputs(inputs: Path) -> None:
    """Write a ResNet-18's weights as torchvision's users keep them."""
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), inputs / "encoder.pth")


def build_network(inputs: Path) -> tuple[int, str]:
    """Build the network on the encoder's weights."""

    def find():
        values = dataset_defaults("PHANTOM")
        model = {**values["model"], "encoder_weights": f"{inputs}/encoder.pth", "feature_width": 8}
        network = training.make_network(parse_config({**values, "model": model}))
        tensors = network.state_dict()
        assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
        return str({name: digest_of(tensor.numpy()) for name, tensor in tensors.items()})

    return _guarded(find)
