"""Two ranks train, evaluate, are stopped and killed: real processes, gloo."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import training
import validation
from config_ssl_upload import REPOSITORY
from models.encoder import BACKBONES
from tests.narrow_resnet import NarrowResNet
from tests.util.parallel.small_jobs import run_job, start_elastic_job
from tests.weights import assert_equal_weights, final_weights
from util.config.command_line import run_command_line
from util.engine.runs import list_checkpoints, list_runs

pytestmark = pytest.mark.usefixtures("narrow_encoder")

MAX_SECONDS = 600  # on a busy machine; a quiet one needs seconds
N_STEPS = 20  # enough that a signal after the third arrives before the last
WORDS = (f"n_steps={N_STEPS}", "print_interval=4", "save_snapshot_every=3", "checkpoint_minutes=0")
# With this seed the network finds organs after three steps; without the fold, scripts take every one.
MORE = ("seed=4", "optim.ema_decay=0.9", "eval_fold=0", "evaluation.baselines=False")


# Stands in for training.py beside the scripts: the real one, with a narrow network.
NARROW_TRAINING = f"""
import runpy
import sys
sys.path[0] = {str(REPOSITORY)!r}
from models.encoder import BACKBONES
from tests.narrow_resnet import NarrowResNet
BACKBONES["resnet18"] = NarrowResNet
runpy.run_path(sys.path[0] + "/training.py", run_name="__main__")
"""


def train_rank(words):
    """Train in a rank's process, which has none of this process's fixtures."""
    return _run_rank(training, words)


def evaluate_rank(words):
    return _run_rank(validation, words)


def _run_rank(program, words):
    os.environ["OMP_NUM_THREADS"] = "1"
    BACKBONES["resnet18"] = NarrowResNet
    return run_command_line(program.experiment, words, worker_main=program.worker_main)


@pytest.fixture(name="words_for", scope="module")
def _words_for(overrides_for, tmp_path_factory):
    """Return the arguments of a training of two ranks in a separate run folder."""
    folder = tmp_path_factory.mktemp("joint")
    return lambda name: [
        *overrides_for(folder / name),
        *MORE,
        *WORDS,
    ], lambda name: folder / name / "PHANTOM" / "fold_0" / "training"


@pytest.fixture(name="clone")
def _clone(tmp_path):
    """Return a folder whose scripts train narrow networks."""
    shutil.copytree(REPOSITORY / "script", tmp_path / "script")
    (REPOSITORY / "build").mkdir(exist_ok=True)
    for name in ("requirements.txt", "data", "build"):  # which tell whether the environment is ready
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "training.py").write_text(NARROW_TRAINING)
    return tmp_path


def launch(clone, words):
    """Start the script in a new process group, as a shell does."""
    active = {"VIRTUAL_ENV": str(Path(sys.executable).parents[1])}
    return subprocess.Popen(
        ["bash", "script/train.sh", *words],
        cwd=clone,
        env={**os.environ, **active, "OMP_NUM_THREADS": "1", "NPROC": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_checkpoint(folder, n_steps=3):
    deadline = time.monotonic() + MAX_SECONDS
    while time.monotonic() < deadline:
        result = [path for run in list_runs(folder) for path in list_checkpoints(run)]
        if result and int(result[0].stem.split("_")[1]) >= n_steps:
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint came")


def printed(outcomes, code=0):
    """Require an exit code of all ranks; return what they printed on stdout and stderr."""
    out, errors = ("".join(getattr(outcome, name) for outcome in outcomes) for name in ("stdout", "stderr"))
    assert [outcome.result for outcome in outcomes] == [code] * len(outcomes), errors
    return out, errors


def final(folder):
    return final_weights(list_runs(folder)[0], N_STEPS)


@pytest.fixture(name="trained", scope="module")
def _trained(words_for, tmp_path_factory):
    """Train without a stop; return what was printed there, and the folder of the run."""
    words, folder = words_for
    outcomes = run_job(train_rank, tmp_path_factory.mktemp("ranks"), words("unbroken"))
    return printed(outcomes), folder("unbroken")


@pytest.fixture(name="unbroken", scope="module")
def _unbroken(trained):
    return final(trained[1])


@pytest.fixture(name="evaluated", scope="module")
def _evaluated(words_for, trained, tmp_path_factory, narrow_encoder):
    """Evaluate that training with two ranks, then alone; return what the ranks said, and the runs' folder."""
    snapshot = trained[1] / "1" / "snapshots" / "snapshot_000003.pt"
    words = [*words_for[0]("unbroken"), f"reload_model_path={snapshot}"]
    output = printed(run_job(evaluate_rank, tmp_path_factory.mktemp("ranks"), words))
    assert run_command_line(validation.experiment, [*words, "evaluation.report=False"]) == 0
    return output, trained[1].with_name("evaluation")


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


def test_two_ranks_of_the_script_that_are_stopped_resume_to_the_same_weights(
    words_for, unbroken, clone, tmp_path
):
    words, folder = words_for
    child = launch(clone, words("stopped"))
    try:
        wait_for_checkpoint(folder("stopped"))
    finally:
        os.killpg(child.pid, signal.SIGTERM)
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 128 + signal.SIGTERM, errors
    assert errors.count("stopped by SIGTERM; resume with ") == 1
    assert "Traceback" not in errors
    out, _ = printed(run_job(train_rank, tmp_path, [*words("stopped"), "resume=latest"]))
    assert "resuming after step" in out
    assert_equal_weights(final(folder("stopped")), unbroken)


def train_elastic_rank(words):
    sys.exit(train_rank(words))


def test_torchrun_restarts_a_job_that_lost_a_rank_and_it_resumes(words_for, unbroken, tmp_path):
    words, folder = words_for
    job = start_elastic_job(train_elastic_rank, tmp_path, words("killed"), max_restarts=1)
    agent = job.processes[0].pid
    wait_for_checkpoint(folder("killed"))
    ranks = Path(f"/proc/{agent}/task/{agent}/children")
    if not ranks.is_file():
        job.processes[0].kill()
        pytest.skip("this system does not list a process's children")
    os.kill(int(ranks.read_text().split()[-1]), signal.SIGKILL)
    out, errors = printed(job.join())
    assert "resuming after step" in out, errors
    assert len(list_runs(folder("killed"))) == 2
    assert_equal_weights(final(folder("killed")), unbroken)
