"""A resumed training ends like an uninterrupted one, bit for bit."""

import json
import math
import os
import shutil
import signal
import time
from functools import partial

import pytest
import torch

import training
from tests.weights import assert_equal_weights, final_weights
from util.config.command_line import run_command_line
from util.engine import checkpoint_manager
from util.engine.checkpoint_manager import CheckpointManager
from util.engine.checkpoints import list_checkpoints, load_checkpoint
from util.engine.snapshots import load_snapshot
from util.parallel.ranks import Ranks

pytestmark = pytest.mark.usefixtures("narrow_encoder")

STEPS = ("n_steps=6", "print_interval=2", "save_snapshot_every=4", "checkpoint_minutes=0")
# All that a checkpoint has to hold: momentum, averages, a running meter, shots, batches.
FULL = ("optim.ema_decay=0.9", "batch_size=2", "optim.schedule=cosine", "optim.warmup=0.3")
RESIZING = ("task.half_size_share=0.5",)


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return tmp_path / "runs" / "PHANTOM" / "fold_0" / "training"


@pytest.fixture(name="unbroken", scope="module")
def _unbroken(overrides_for, tmp_path_factory, narrow_encoder):
    """Train once without a stop for each choice of further words; return the run's folder."""
    result = {}

    def train(*words):
        if words not in result:
            log_dir = tmp_path_factory.mktemp("unbroken")
            assert run(*overrides_for(log_dir), *STEPS, *words) == 0
            result[words] = log_dir / "PHANTOM" / "fold_0" / "training" / "1"
        return result[words]

    return train


def signal_after(patch, step, number=signal.SIGTERM):
    """Let trainings get a signal after some step, as the next one begins."""
    real = training.take_step

    def take_step(config, model, state, batch, **options):
        real(config, model, state, batch, **options)
        if state.step == step:
            os.kill(os.getpid(), number)

    patch.setattr(training, "take_step", take_step)


@pytest.fixture(name="stopped_after")
def _stopped_after(monkeypatch):
    return partial(signal_after, monkeypatch)


@pytest.fixture(name="stopped", scope="module")
def _stopped(overrides_for, tmp_path_factory, narrow_encoder):
    """Stop a training after its fourth step; return the folder of the runs, for copies."""
    log_dir = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        signal_after(patch, 4)
        assert run(*overrides_for(log_dir), *STEPS) == 128 + signal.SIGTERM
    return log_dir


def run(*words):
    return run_command_line(training.experiment, list(words))


def resume(overrides, *words):
    """Run with the words that say where things lie, but not how long to train."""
    return run(*(word for word in overrides if not word.startswith("n_steps=")), *words)


def final(folder, number, step=6):
    return final_weights(folder / str(number), step)


@pytest.mark.parametrize(
    ("words", "step"),
    [((), 1), (FULL, 1), (FULL, 3), (RESIZING, 1), (RESIZING, 4), (("optim.name=adamw", "num_workers=1"), 3)],
    ids=["sgd-1", "full-1", "full-3", "resizing-1", "resizing-4", "adamw-3"],
)
def test_a_resumed_training_equals_an_unbroken_one(
    tiny_overrides, folder, unbroken, stopped_after, monkeypatch, words, step
):
    whole_run = unbroken(*words)
    stopped_after(step)
    assert run(*tiny_overrides, *STEPS, *words) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert load_checkpoint(list_checkpoints(folder / "1")[0]).step == step
    assert resume(tiny_overrides, "resume=latest") == 0
    assert_equal_weights(final_weights(whole_run, 6), final(folder, 2))
    whole, resumed = (
        json.loads((run_path / "metrics.json").read_text()) for run_path in (whole_run, folder / "2")
    )
    for name, metric in whole.items():
        assert metric["steps"] == resumed[name]["steps"]
        assert metric["values"] == resumed[name]["values"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_a_checkpoint_and_prints_how_to_resume(
    tiny_overrides, folder, stopped_after, capsys, number
):
    stopped_after(2, number)
    assert run(*tiny_overrides, "n_steps=5", "save_snapshot_every=5") == 128 + number
    output = capsys.readouterr().err.strip().splitlines()[-1]
    assert output.startswith(f"stopped by {number.name}; resume with bash script/train.sh dataset=PHANTOM")
    log_dir = next(word for word in tiny_overrides if word.startswith("path.log_dir="))
    assert output.endswith(f"eval_fold=0 {log_dir} resume=1")
    assert json.loads((folder / "1" / "run.json").read_text())["status"] == "INTERRUPTED"
    assert load_checkpoint(list_checkpoints(folder / "1")[0]).step == 2


def test_a_finished_training_keeps_no_checkpoint_and_is_not_restarted(tiny_overrides, folder, capsys):
    assert run(*tiny_overrides, *STEPS) == 0
    assert list_checkpoints(folder / "1") == []
    assert resume(tiny_overrides, "resume=latest") == 0
    assert "training/1 is finished; nothing to resume" in capsys.readouterr().out
    assert not (folder / "2").exists()


def test_changed_settings_of_a_finished_training_are_refused(tiny_overrides, folder, capsys):
    assert run(*tiny_overrides, *STEPS) == 0
    assert run(*tiny_overrides, "n_steps=9", "resume=latest") == 2
    assert (
        "was trained with n_steps: 6, now 9; leave resume out to start a new training"
        in capsys.readouterr().err
    )
    assert not (folder / "2").exists()


def test_a_job_restarted_by_torchrun_resumes_automatically(
    tiny_overrides, folder, stopped_after, monkeypatch, capsys
):
    stopped_after(2)
    assert run(*tiny_overrides, *STEPS) == 128 + signal.SIGTERM
    monkeypatch.undo()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run(*tiny_overrides, *STEPS) == 0
    assert "resuming after step 2 of" in capsys.readouterr().out
    assert run(*tiny_overrides, *STEPS) == 0  # what is finished belongs to another job
    assert_equal_weights(final(folder, 2), final(folder, 3))


def test_resuming_takes_all_settings_from_the_run(tiny_overrides, folder, stopped_after, monkeypatch):
    stopped_after(2)
    assert run(*tiny_overrides, *STEPS) == 128 + signal.SIGTERM
    monkeypatch.undo()
    log_dir = next(word for word in tiny_overrides if word.startswith("path.log_dir="))
    assert run("with", "dataset=PHANTOM", log_dir, "resume=latest") == 0
    former, now = (json.loads((folder / number / "config.json").read_text()) for number in ("1", "2"))
    assert now == former | {"resume": "latest"}


def test_resuming_without_a_run_starts_a_new_training(tiny_overrides, folder):
    assert run(*tiny_overrides, "resume=latest") == 0
    assert final(folder, 1, step=3)


def test_a_run_saved_under_former_names_of_keys_resumes_with_its_settings(
    tiny_overrides, folder, unbroken, stopped_after, monkeypatch, capsys
):
    whole_run = unbroken(*FULL)
    stopped_after(2)
    assert run(*tiny_overrides, *STEPS, *FULL) == 128 + signal.SIGTERM
    monkeypatch.undo()
    saved = json.loads((folder / "1" / "config.json").read_text())
    saved["recompute"] = saved.pop("activation_checkpointing")
    saved["optim"]["average_decay"] = saved["optim"].pop("ema_decay")
    (folder / "1" / "config.json").write_text(json.dumps(saved))
    capsys.readouterr()
    assert resume(tiny_overrides, "resume=latest") == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("optim.average_decay: now optim.ema_decay") == 1
    assert_equal_weights(final_weights(whole_run, 6), final(folder, 2))


def test_at_most_two_checkpoints_are_kept(tiny_overrides, folder, stopped_after):
    stopped_after(5)
    assert run(*tiny_overrides, *STEPS) == 128 + signal.SIGTERM
    assert [path.name for path in list_checkpoints(folder / "1")] == [
        "checkpoint_000005.pt",
        "checkpoint_000004.pt",
    ]


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "gone"])
def test_a_damaged_newest_checkpoint_is_replaced_by_the_previous_one(
    tiny_overrides, folder, unbroken, stopped, tmp_path, capsys, damage
):
    whole_run = unbroken()
    shutil.copytree(stopped, tmp_path / "runs")
    newest = list_checkpoints(folder / "1")[0]
    content = bytearray(newest.read_bytes())
    if damage == "gone":
        newest.unlink()
    elif damage == "flipped":
        content[len(content) // 2 :] = bytes(byte ^ 255 for byte in content[len(content) // 2 :])
        newest.write_bytes(content)
    else:
        newest.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    capsys.readouterr()
    assert resume(tiny_overrides, "resume=1") == 0
    output = capsys.readouterr().out
    assert "resuming after step 3 of" in output
    if damage != "gone":
        assert f"warning: {newest}: is damaged" in output
        assert "checkpoint_000003.pt" in output
    assert_equal_weights(final(folder, 2), final_weights(whole_run, 6))


def test_a_change_that_affects_the_result_is_refused_unless_forced(
    tiny_overrides, folder, stopped_after, capsys, monkeypatch
):
    stopped_after(2)
    assert run(*tiny_overrides, *STEPS) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert resume(tiny_overrides, "resume=latest", "optim.lr=0.5", "num_workers=1") == 2
    output = capsys.readouterr().err
    assert "was trained with optim.lr: 0.003, now 0.5; leave that out, or add resume_changed=True" in output
    assert not (folder / "2").exists()
    assert resume(tiny_overrides, "resume=latest", "optim.lr=0.5", "resume_changed=True") == 0
    assert load_snapshot(folder / "2" / "snapshots" / "snapshot_000006.pt").config["optim"]["lr"] == 0.5


def test_a_non_finite_loss_stops_before_the_weights_change(tiny_overrides, folder, monkeypatch, capsys):
    real = training.training_losses

    def training_losses(model, batch, *, step, **options):
        losses = real(model, batch, step=step, **options)
        if step == 3:
            losses.query.mul_(float("nan"))
        return losses

    monkeypatch.setattr(training, "training_losses", training_losses)
    assert run(*tiny_overrides, *STEPS) == 2
    output = capsys.readouterr().err.strip().splitlines()[-1]
    assert output.startswith("error: step 3: the loss is not finite (scan ")
    for word in ("slices ", "supervoxel ", "episode 2", "saved to ", "are unchanged", "optim.lr"):
        assert word in output
    [path] = (folder / "1" / "nonfinite").iterdir()
    episode = torch.load(path, weights_only=True)["episodes"][0]
    assert episode["support_images"].shape == (1, 1, 48, 48)
    checkpoint = load_checkpoint(list_checkpoints(folder / "1")[0])
    assert checkpoint.step == 2  # the last good one


def test_non_finite_steps_are_skipped_and_counted_if_allowed(tiny_overrides, folder, monkeypatch, capsys):
    real = training.training_losses

    def training_losses(model, batch, *, step, **options):
        losses = real(model, batch, step=step, **options)
        if step in (2, 4):
            losses.alignment.mul_(float("inf"))
            losses.query.mul_(float("nan"))
        return losses

    monkeypatch.setattr(training, "training_losses", training_losses)
    words = [*tiny_overrides, *STEPS, "print_interval=6"]
    assert run(*words, "nonfinite=skip:1") == 2
    output = capsys.readouterr()
    assert "step 2: not finite, skipped (1 of 1 allowed)" in output.out + output.err
    assert "step 4: the loss is not finite" in output.err
    weights = load_checkpoint(list_checkpoints(folder / "1")[0]).weights
    assert all(torch.isfinite(tensor).all() for tensor in weights.values() if tensor.is_floating_point())
    assert run(*words, "nonfinite=skip:2") == 0
    metrics = json.loads((folder / "2" / "metrics.json").read_text())
    assert all(math.isfinite(value) for metric in metrics.values() for value in metric["values"])


def test_a_full_disk_keeps_the_previous_checkpoint(tiny_overrides, folder, monkeypatch, capsys):
    real = torch.save

    def save(content, path):
        if content.get("kind") == "checkpoint" and content["step"] == 3:
            raise OSError(28, "No space left on device")
        real(content, path)

    monkeypatch.setattr(torch, "save", save)
    assert run(*tiny_overrides, *STEPS) == 2
    assert "checkpoint_000003.pt: cannot be written (No space left on device)" in capsys.readouterr().err
    assert load_checkpoint(list_checkpoints(folder / "1")[0]).step == 2


def test_checkpoints_are_due_at_intervals(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    keeper = CheckpointManager(tmp_path, 2)
    monkeypatch.setattr(checkpoint_manager, "find_ranks", lambda: Ranks(1, 2, 1, 2))
    other = CheckpointManager(tmp_path, 2)
    assert not keeper.is_due()
    now[0] += 120
    assert keeper.is_due()
    assert not other.is_due()


def test_slow_checkpoints_are_saved_less_often(tmp_path, monkeypatch):
    now = [100.0]

    def save(run_dir, checkpoint):
        now[0] += 6  # seconds, a fiftieth of five minutes

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint_manager, "save_checkpoint", save)
    keeper = CheckpointManager(tmp_path, 1)
    now[0] += 60
    assert keeper.is_due()
    keeper.save(object)
    now[0] += 299
    assert not keeper.is_due()
    now[0] += 1
    assert keeper.is_due()
