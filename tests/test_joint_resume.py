"""Two ranks that are stopped, or one of which is killed, end as two that never were: real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config_ssl_upload import REPOSITORY
from tests.weights import assert_equal_weights, final_weights
from util.engine.runs import list_checkpoints, list_runs

N_STEPS = 7
WORDS = (f"n_steps={N_STEPS}", "print_interval=4", "save_snapshot_every=5", "checkpoint_minutes=0")
MORE = ("optim.ema_decay=0.9", "eval_fold=0")  # the script would train every fold


@pytest.fixture(name="words_for", scope="module")
def _words_for(overrides_for, tmp_path_factory):
    """Give the words of a training of two ranks that has runs of its own."""
    folder = tmp_path_factory.mktemp("joint_resume")
    return lambda name: [
        *overrides_for(folder / name),
        *MORE,
        *WORDS,
    ], lambda name: folder / name / "PHANTOM" / "fold_0" / "training"


def start(command, **environment):
    """Start a command in a process group of its own, as a shell does."""
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def launch(words):
    active = {"VIRTUAL_ENV": str(Path(sys.executable).parents[1])}
    return start(["bash", "script/train.sh", *words], NPROC="2", **active)


def wait_for_checkpoint(folder, n_steps=3):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        found = [path for run in list_runs(folder) for path in list_checkpoints(run)]
        if found and int(found[0].stem.split("_")[1]) >= n_steps:
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint came")


def ended(child, code):
    out, err = child.communicate(timeout=300)
    assert child.returncode == code, err
    return out, err


def final(folder):
    return final_weights(list_runs(folder)[0], N_STEPS)


@pytest.fixture(name="unbroken", scope="module")
def _unbroken(words_for):
    words, folder = words_for
    ended(launch(words("unbroken")), 0)
    return final(folder("unbroken"))


def test_two_ranks_that_are_stopped_go_on_to_the_same_weights(words_for, unbroken):
    words, folder = words_for
    child = launch(words("stopped"))
    wait_for_checkpoint(folder("stopped"))
    os.killpg(child.pid, signal.SIGTERM)
    _, told = ended(child, 128 + signal.SIGTERM)
    assert told.count("stopped by SIGTERM; resume with ") == 1
    assert "Traceback" not in told
    out, _ = ended(launch([*words("stopped"), "resume=latest"]), 0)
    assert "resuming after step" in out
    assert_equal_weights(final(folder("stopped")), unbroken)


def test_torchrun_starts_a_job_again_that_lost_a_rank_and_it_goes_on(words_for, unbroken):
    words, folder = words_for
    elastic = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    child = start([sys.executable, *elastic, "training.py", *words("killed")])
    wait_for_checkpoint(folder("killed"))
    ranks = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    if not ranks.is_file():
        child.kill()
        pytest.skip("this system does not list a process's children")
    os.kill(int(ranks.read_text().split()[-1]), signal.SIGKILL)
    out, told = ended(child, 0)
    assert "resuming after step" in out, told
    assert len(list_runs(folder("killed"))) == 2
    assert_equal_weights(final(folder("killed")), unbroken)
