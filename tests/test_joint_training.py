"""Several ranks train and evaluate as one process with as many episodes does: real processes, gloo."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

import training
import validation
from util.config.command_line import run_command_line

REPOSITORY = Path(training.__file__).parent


def _launch(entry_point, overrides, **environment):
    command = ["bash", f"script/{entry_point}.sh", *overrides]
    environment = {**os.environ, "NPROC": "2", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


@pytest.fixture(name="joint_runs", scope="module")
def _joint_runs(overrides_for, tmp_path_factory):
    """Train and evaluate by the scripts with two ranks; evaluate once more alone."""
    log_dir = tmp_path_factory.mktemp("joint")
    overrides = [*overrides_for(log_dir), "eval_fold=0", "evaluation.baselines=False"]
    active = {"VIRTUAL_ENV": str(Path(sys.executable).parents[1])}
    done = [_launch(name, overrides, **active) for name in ("train", "evaluate")]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    assert run_command_line(validation.experiment, overrides) == 0
    return log_dir / "PHANTOM" / "fold_0", done


def test_rank_0_alone_has_a_run_and_speaks(joint_runs):
    folder, (trained, evaluated) = joint_runs
    assert sorted(path.name for path in (folder / "training").iterdir() if path.name.isdigit()) == ["1"]
    assert trained.stdout.count("training PHANTOM, fold 0") == 1
    assert "on each of 2 ranks" in trained.stdout
    assert evaluated.stdout.count("evaluating PHANTOM, fold 0") == 1
    assert "Warning" not in trained.stderr + evaluated.stderr
    assert "Traceback" not in trained.stderr + evaluated.stderr


def test_two_ranks_write_the_table_and_the_files_of_one(joint_runs):
    folder = joint_runs[0] / "evaluation"
    jointly, alone = ((folder / run / "scores.csv").read_text() for run in ("1", "2"))
    rows = list(csv.DictReader(jointly.splitlines()))
    assert len({row["query_id"] for row in rows}) > 1
    assert any(float(row["dice"]) > 0 for row in rows)
    assert jointly == alone
    files = [
        {str(p.relative_to(folder / run)) for p in (folder / run).rglob("*.nii.gz")} for run in ("1", "2")
    ]
    assert files[0] == files[1] != set()
