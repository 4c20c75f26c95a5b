"""Two ranks train, evaluate, are stopped and killed, by the scripts: real processes, gloo."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import validation
from config_ssl_upload import REPOSITORY
from tests.weights import assert_equal_weights, final_weights
from util.config.command_line import run_command_line
from util.engine.runs import list_checkpoints, list_runs

N_STEPS = 7
WORDS = (f"n_steps={N_STEPS}", "print_interval=4", "save_snapshot_every=3", "checkpoint_minutes=0")
MORE = ("optim.ema_decay=0.9", "eval_fold=0", "evaluation.baselines=False")  # scripts take every fold


@pytest.fixture(name="words_for", scope="module")
def _words_for(overrides_for, tmp_path_factory):
    """Return the arguments of a training of two ranks in a separate run folder."""
    folder = tmp_path_factory.mktemp("joint")
    return lambda name: [
        *overrides_for(folder / name),
        *MORE,
        *WORDS,
    ], lambda name: folder / name / "PHANTOM" / "fold_0" / "training"


def start(command, **environment):
    """Start a command in a new process group, as a shell does."""
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def launch(words, script="train"):
    active = {"VIRTUAL_ENV": str(Path(sys.executable).parents[1])}
    return start(["bash", f"script/{script}.sh", *words], NPROC="2", **active)


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


@pytest.fixture(name="trained", scope="module")
def _trained(words_for):
    """Train without a stop; return what was said there, and the folder of the run."""
    words, folder = words_for
    return ended(launch(words("unbroken")), 0), folder("unbroken")


@pytest.fixture(name="unbroken", scope="module")
def _unbroken(trained):
    return final(trained[1])


@pytest.fixture(name="evaluated", scope="module")
def _evaluated(words_for, trained):
    """Evaluate that training with two ranks, then alone; return what the ranks said, and the runs' folder."""
    snapshot = trained[1] / "1" / "snapshots" / "snapshot_000003.pt"  # later ones find none of the organs
    words = [*words_for[0]("unbroken"), f"reload_model_path={snapshot}"]
    said = ended(launch(words, "evaluate"), 0)
    assert run_command_line(validation.experiment, words) == 0
    return said, trained[1].with_name("evaluation")


def test_rank_0_alone_has_a_run_and_speaks(trained, evaluated):
    (out, warned), folder = trained
    (evaluated_out, evaluated_warned), _ = evaluated
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["1"]
    assert out.count("training PHANTOM, fold 0") == 1
    assert "on each of 2 ranks" in out
    assert evaluated_out.count("evaluating PHANTOM, fold 0") == 1
    assert "Warning" not in warned + evaluated_warned
    assert "Traceback" not in warned + evaluated_warned


def test_two_ranks_write_the_table_and_the_files_of_one(evaluated):
    _, folder = evaluated
    jointly, alone = ((folder / run / "scores.csv").read_text() for run in ("1", "2"))
    rows = list(csv.DictReader(jointly.splitlines()))
    assert len({row["query_id"] for row in rows}) > 1
    assert any(float(row["dice"]) > 0 for row in rows)
    assert jointly == alone
    files = [
        {str(p.relative_to(folder / run)) for p in (folder / run).rglob("*.nii.gz")} for run in ("1", "2")
    ]
    assert files[0] == files[1] != set()


def test_two_ranks_that_are_stopped_go_on_to_the_same_weights(words_for, unbroken):
    words, folder = words_for
    child = launch(words("stopped"))
    wait_for_checkpoint(folder("stopped"))
    os.killpg(child.pid, signal.SIGTERM)
    _, errors = ended(child, 128 + signal.SIGTERM)
    assert errors.count("stopped by SIGTERM; resume with ") == 1
    assert "Traceback" not in errors
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
    out, errors = ended(child, 0)
    assert "resuming after step" in out, errors
    assert len(list_runs(folder("killed"))) == 2
    assert_equal_weights(final(folder("killed")), unbroken)
