"""Validation while training: on which scans, that it changes nothing, and the best snapshot."""

import json
import os
import signal

import pytest
import torch

import training
from config_ssl_upload import parse_config
from dataloaders.evaluation_sets import (
    assign_chunks,
    choose_support_slices,
    find_organ_slices,
    load_evaluation_scan,
)
from script.workflows import training_observer
from tests.weights import assert_equal_weights, final_weights
from util.config.command_line import run_command_line
from util.engine.checkpoint_manager import CheckpointManager
from util.engine.runs import best_snapshot_path
from util.engine.snapshots import load_snapshot
from util.evaluation.metrics import dice_and_iou
from util.parallel.devices import SINGLE_RANK

pytestmark = pytest.mark.usefixtures("narrow_encoder")

WORDS = (
    "n_steps=5",
    "print_interval=2",
    "save_snapshot_every=5",
    "checkpoint_minutes=0",
    "optim.ema_decay=0.5",
)
WORDS += ("validation_scans=2", "test_label=[1]", "validate_every=1")
# What the validations of the five steps find, so that no test depends on how well tiny networks learn.
RISING, FALLING = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
# Of ten scans fold 0 evaluates 0, 1 and 2.
VALIDATION_SCANS = (4, 8)


def run(*words):
    return run_command_line(training.experiment, list(words))


@pytest.fixture(scope="module")
def unbroken(overrides_for, tmp_path_factory, narrow_encoder):
    """Train once without a stop for each course of the validation; return the run's folder."""
    result = {}

    def train(course):
        if course not in result:
            log_dir = tmp_path_factory.mktemp("validated")
            with pytest.MonkeyPatch.context() as patch:
                follow(course, patch)
                assert run(*overrides_for(log_dir), *WORDS) == 0
            result[course] = log_dir / "PHANTOM" / "fold_0" / "training" / "1"
        return result[course]

    return train


def follow(course, patch, *, first_step=1):
    """Let the validations after each step from the first one on find the Dice of a course."""
    values = iter(course[first_step - 1 :])
    real = training_observer.validate

    def validate(*arguments, **options):
        assert 0 <= real(*arguments, **options) <= 1
        return next(values)

    patch.setattr(training_observer, "validate", validate)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "PHANTOM" / "fold_0" / "training"


def validation_of(run_dir):
    metric = json.loads((run_dir / "metrics.json").read_text())["validation_dice"]
    return dict(zip(metric["steps"], metric["values"], strict=True))


def plain_dice(config, network):
    """Validate a network slice by slice, without the code that trainings use."""
    size_px = config.image_size_px
    scans = [
        load_evaluation_scan(config.layout, scan_id, image_size_px=size_px) for scan_id in VALIDATION_SCANS
    ]
    means = []
    for label in config.test_label:
        slices = [find_organ_slices(scan.label_map, label) for scan in scans]
        support = next(i for i, result in enumerate(slices) if len(result) >= 3)
        support_slices = choose_support_slices(slices[support], 3)
        scores = []
        for i, scan in enumerate(scans):
            if i == support or not len(slices[i]):
                continue
            plan = assign_chunks(slices[i], 3)
            masks = []
            for z, part in zip(plan.slices, plan.parts, strict=True):
                mask = torch.from_numpy(scans[support].support_labels[support_slices[part]] == label).float()
                image = scans[support].images[support_slices[part]]
                with torch.no_grad():
                    both = network.predict(image[None, None], mask[None, None], scan.images[z][None, None])
                masks.append(both[0, 0, 1] > 0.5)
            scores.append(dice_and_iou(torch.stack(masks).numpy(), scan.label_map[plan.slices] == label)[0])
        means.append(sum(scores) / len(scores))
    return sum(means) / len(means)


def test_a_validation_is_the_mean_dice_over_queries_and_organs(unbroken):
    config = parse_config(load_snapshot(best_snapshot_path(unbroken(RISING))).config)
    config = config.model_copy(update={"test_label": (1, 4)})
    jobs = training_observer.plan_jobs_of_validation(config)
    assert {job.label for job in jobs} == {1, 4}
    for seed in range(20):  # most untrained networks predict no or only foreground
        network = training.make_network(config.model_copy(update={"seed": seed})).eval()
        expected = plain_dice(config, network)
        if 0.01 < expected < 0.9:
            break
    assert expected > 0.01
    result = training_observer.validate(config, network, jobs, device=torch.device("cpu"), ranks=SINGLE_RANK)
    assert result == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("course", "step"), [(RISING, 5), (FALLING, 1)], ids=["rising", "falling"])
def test_the_best_snapshot_is_that_of_the_highest_dice(unbroken, course, step):
    assert validation_of(unbroken(course)) == dict(enumerate(course, start=1))
    best = load_snapshot(best_snapshot_path(unbroken(course)))
    assert best.step == step
    last = final_weights(unbroken(course), 5)
    assert all(torch.equal(best.weights[name], last[name]) for name in last) == (step == 5)


def test_validation_scans_are_neither_trained_on_nor_held_out(unbroken):
    assert load_snapshot(best_snapshot_path(unbroken(RISING))).training_ids == [3, 5, 6, 7, 9]


def test_validation_takes_place_at_intervals_and_at_the_end_and_changes_no_weight(
    unbroken, tiny_overrides, folder
):
    assert run(*tiny_overrides, *WORDS, "validate_every=3") == 0
    assert list(validation_of(folder / "1")) == [3, 5]
    assert_equal_weights(final_weights(unbroken(RISING), 5), final_weights(folder / "1", 5))


def resume(overrides):
    """Resume with the words that say where things lie."""
    words = [word for word in overrides if not word.startswith(("n_steps=", "print_interval=", "save_"))]
    return run(*words, "resume=latest")


def stop_after(step, monkeypatch):
    real = training.take_step

    def take_step(config, model, state, batch, **options):
        real(config, model, state, batch, **options)
        if state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training, "take_step", take_step)


def assert_same_end(uninterrupted, run_dir):
    assert_equal_weights(final_weights(uninterrupted, 5), final_weights(run_dir, 5))
    assert validation_of(uninterrupted) == validation_of(run_dir)
    best, other = (load_snapshot(best_snapshot_path(run)) for run in (uninterrupted, run_dir))
    assert best.step == other.step
    assert_equal_weights(best.weights, other.weights)


@pytest.mark.parametrize(("course", "step"), [(RISING, 2), (FALLING, 3)], ids=["to_be_written", "written"])
def test_a_resumed_training_ends_with_the_same_best_snapshot(
    unbroken, tiny_overrides, folder, monkeypatch, course, step
):
    with monkeypatch.context() as patch:
        follow(course, patch)
        stop_after(step, patch)
        assert run(*tiny_overrides, *WORDS) == 128 + signal.SIGTERM
    assert load_snapshot(best_snapshot_path(folder / "1")).step == 1
    with monkeypatch.context() as patch:
        follow(course, patch, first_step=step + 1)
        assert resume(tiny_overrides) == 0
    assert_same_end(unbroken(course), folder / "2")


def test_a_lost_best_snapshot_is_reported_on_resume(tiny_overrides, folder, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        follow(FALLING, patch)
        stop_after(3, patch)
        assert run(*tiny_overrides, *WORDS) == 128 + signal.SIGTERM
    best_snapshot_path(folder / "1").unlink()
    follow(FALLING, monkeypatch, first_step=4)
    assert resume(tiny_overrides) == 0
    assert "warning: the best snapshot so far, of step 1, is lost" in capsys.readouterr().out
    assert not best_snapshot_path(folder / "2").exists()


def test_a_best_snapshot_that_cannot_be_written_ends_the_training_in_one_line(
    tiny_overrides, monkeypatch, capsys
):
    real = CheckpointManager.save_snapshot

    def save_snapshot(self, *arguments, is_best=False, **options):
        if is_best:
            raise training.UserError("best.pt: cannot be written (No space left on device)")
        real(self, *arguments, **options)

    monkeypatch.setattr(CheckpointManager, "save_snapshot", save_snapshot)
    assert run(*tiny_overrides, *WORDS) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: best.pt: cannot be written")


def test_more_validation_scans_than_there_are_leave_no_run_behind(tiny_overrides, folder, capsys):
    assert run(*tiny_overrides, "validate_every=2", "validation_scans=7") == 2
    assert "validation_scans=7: 7 of 7 training scans have labels" in capsys.readouterr().err
    assert not folder.exists()
