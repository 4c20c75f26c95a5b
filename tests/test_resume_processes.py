"""Trainings in separate processes that are killed, or signalled as a group with their workers."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import training
from config_ssl_upload import REPOSITORY
from tests.weights import assert_equal_weights, final_weights
from util.config.command_line import run_command_line
from util.engine.checkpoints import list_checkpoints, load_checkpoint

WORDS = ("print_interval=2", "save_snapshot_every=4", "checkpoint_minutes=0")


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return tmp_path / "runs" / "PHANTOM" / "fold_0" / "training"


def start_until_checkpoint(words, folder, **options):
    """Start a training and return its process once it has saved its first checkpoint."""
    child = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "training.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        text=True,
        **options,
    )
    deadline = time.monotonic() + 120
    while not list_checkpoints(folder / "1") and time.monotonic() < deadline:
        time.sleep(0.05)
    return child


def test_a_killed_training_goes_on_with_a_new_process(tiny_overrides, folder, tmp_path):
    words = [*tiny_overrides, "n_steps=8", *WORDS]
    child = start_until_checkpoint(words, folder, cwd=tmp_path, stderr=subprocess.DEVNULL)
    child.kill()
    child.wait()
    step = load_checkpoint(list_checkpoints(folder / "1")[0]).step
    assert 0 < step < 8
    without_steps = [word for word in tiny_overrides if not word.startswith("n_steps=")]
    assert run_command_line(training.experiment, [*without_steps, "resume=latest"]) == 0
    assert run_command_line(training.experiment, words) == 0
    assert_equal_weights(final_weights(folder / "2", 8), final_weights(folder / "3", 8))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_leaves_the_workers_to_the_main_one(
    tiny_overrides, folder, tmp_path, number
):
    words = [*tiny_overrides, "n_steps=2000", *WORDS, "num_workers=2"]
    child = start_until_checkpoint(
        words, folder, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True
    )
    os.killpg(child.pid, number)
    _, told = child.communicate(timeout=120)
    assert child.returncode == 128 + number
    assert told.strip().splitlines()[-1].startswith(f"stopped by {number.name}; resume with ")
    assert "Traceback" not in told
