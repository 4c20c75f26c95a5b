"""The same seed, configuration, data and versions give the same weights, with any number of workers."""

import json
import subprocess
from importlib.metadata import version

import pytest
import torch

import training
import validation
from config_ssl_upload import REPOSITORY
from util.config.command_line import run_command_line
from util.engine.snapshots import load_snapshot

pytestmark = pytest.mark.usefixtures("narrow_encoder")

# Whatever draws at random takes part: dropout, prototypes, augmentation, several episodes a step.
WORDS = ("n_steps=4", "save_snapshot_every=4", "batch_size=2", "task.max_gap=2", "task.noise=0.2")

CHUNKS_ALONE = ("evaluation.all_slices=False", "evaluation.every_support=False", "evaluation.baselines=False")
CHUNKS_ALONE += ("evaluation.report=False",)


def _train(words, folder, number):
    assert run_command_line(training.experiment, words) == 0
    run_dir = folder / "PHANTOM" / "fold_0" / "training" / str(number)
    return load_snapshot(run_dir / "snapshots" / "snapshot_000004.pt").weights


def _differing(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.fixture(name="first", scope="module")
def _first(overrides_for, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return _train([*overrides_for(folder), *WORDS], folder, 1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("n_workers", [0, 1, 4])
def test_a_second_training_has_the_same_weights(overrides_for, tmp_path, first, n_workers):
    torch.manual_seed(n_workers)  # what this process drew before must not count
    words = [*overrides_for(tmp_path), *WORDS, f"num_workers={n_workers}"]
    assert _differing(first, _train(words, tmp_path, 1)) == []


def test_another_seed_gives_other_weights(overrides_for, tmp_path, first):
    words = [*overrides_for(tmp_path), *WORDS, "seed=2"]
    assert "encoder.reduce.weight" in _differing(first, _train(words, tmp_path, 1))


def test_a_run_records_what_it_takes_to_repeat_it(overrides_for, tmp_path):
    words = [*overrides_for(tmp_path), "seed=3", "n_steps=1"]
    assert run_command_line(training.experiment, words) == 0
    assert run_command_line(validation.experiment, [*words, *CHUNKS_ALONE]) == 0
    fold_dir = tmp_path / "PHANTOM" / "fold_0"
    trained = fold_dir / "training" / "1"
    config, info, run = (
        json.loads((trained / f"{name}.json").read_text()) for name in ("config", "info", "run")
    )
    assert (config["seed"], config["n_steps"], config["dataset"]) == (3, 1, "PHANTOM")
    assert info["environment"]["torch"] == version("torch")
    assert info["environment"]["device"] == "cpu"
    assert len(info["data_fingerprint"]) == 32
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    if head.returncode == 0:
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        recorded = run["experiment"]["repositories"][0]
        assert recorded["commit"] == head.stdout.strip()
        assert recorded["dirty"] == bool(status.stdout)
    snapshot = load_snapshot(next((trained / "snapshots").iterdir()))
    scored = json.loads((fold_dir / "evaluation" / "1" / "scores.json").read_text())["summary"]
    assert scored["environment"] == info["environment"]
    assert scored["data_fingerprint"] == snapshot.data == info["data_fingerprint"]
