"""Trainings in separate processes that are killed, or signalled as a group with their workers."""

import contextlib
import os
import signal
import time

import pytest

import training
from models.encoder import BACKBONES
from tests.narrow_resnet import NarrowResNet
from tests.util.parallel.small_jobs import start_job
from tests.weights import assert_equal_weights, final_weights
from util.config.command_line import run_command_line
from util.engine.checkpoints import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.usefixtures("narrow_encoder")

N_STEPS = 20
WORDS = ("print_interval=2", "save_snapshot_every=4", "checkpoint_minutes=0")


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return tmp_path / "runs" / "PHANTOM" / "fold_0" / "training"


def train_in_group(words):
    """Train in a process that leads a group, as a shell's do."""
    os.setsid()
    BACKBONES["resnet18"] = NarrowResNet  # in this process; the fixture is in another
    return run_command_line(training.experiment, words)


def start_until_checkpoint(words, folder, tmp_path):
    """Start a training in a separate process and return it once it has saved its first checkpoint."""
    job = start_job(train_in_group, tmp_path, words, n_ranks=1)
    deadline = time.monotonic() + 120
    while not list_checkpoints(folder / "1") and time.monotonic() < deadline:
        time.sleep(0.01)
    return job


def test_a_killed_training_resumes_in_a_new_process(tiny_overrides, folder, tmp_path):
    words = [*tiny_overrides, f"n_steps={N_STEPS}", *WORDS]
    job = start_until_checkpoint(words, folder, tmp_path)
    os.kill(job.processes[0].pid, signal.SIGKILL)
    assert job.join()[0].code == -signal.SIGKILL
    step = load_checkpoint(list_checkpoints(folder / "1")[0]).step
    assert 0 < step < N_STEPS
    without_steps = [word for word in tiny_overrides if not word.startswith("n_steps=")]
    assert run_command_line(training.experiment, [*without_steps, "resume=latest"]) == 0
    assert run_command_line(training.experiment, words) == 0
    assert_equal_weights(final_weights(folder / "2", N_STEPS), final_weights(folder / "3", N_STEPS))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_leaves_the_workers_to_the_main_one(
    tiny_overrides, folder, tmp_path, number
):
    words = [*tiny_overrides, "n_steps=2000", *WORDS, "num_workers=2"]
    job = start_until_checkpoint(words, folder, tmp_path)
    os.killpg(job.processes[0].pid, number)
    [outcome] = job.join()
    with contextlib.suppress(ProcessLookupError):  # the loader's fork server may wait for its forked parent
        os.killpg(job.processes[0].pid, signal.SIGKILL)
    output = outcome.stderr
    assert outcome.result == 128 + number, output
    assert output.strip().splitlines()[-1].startswith(f"stopped by {number.name}; resume with ")
    assert "Traceback" not in output
