"""What an environment sets for other programs ends no training and no preparation."""

import json
import os
import subprocess
import sys

import pytest

from config_ssl_upload import REPOSITORY
from data.contact_sheet import draw_contact_sheet
from data.prepare import summary
from data.prepare.__main__ import main
from tests.data.raw.raw_sets import write_custom_numbered

NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
HOMELESS = {"HOME": "/nonexistent"}
ANOTHER_USER = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
OPTIMISED = {"PYTHONOPTIMIZE": "2"}  # no docstrings; not with torch, which Python would compile for 12 s
ONE_PROCESS = ("num_workers=1",)


def _run(words, **environment):
    return subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        check=False,
    )


def test_a_training_does_not_depend_on_it(tiny_overrides, tmp_path):
    # Together: none hides what another would do, and each start of PyTorch takes seconds.
    environment = {**ANOTHER_USER, **NOTEBOOK, **ASCII, **HOMELESS, "PYTHONWARNINGS": "error::UserWarning"}
    ended = _run(["training.py", *tiny_overrides, "n_steps=1"], **environment)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "usage: git" not in ended.stderr
    run = json.loads((tmp_path / "runs/PHANTOM/fold_0/training/1/run.json").read_text())
    assert run["status"] == "COMPLETED"
    assert [entry["commit"] for entry in run["experiment"]["repositories"]] == ["unknown"]
    assert "remark: commit unknown: git cannot read this clone (" in ended.stdout


@pytest.mark.parametrize(
    ("environment", "is_unknown"),
    [
        ({"GIT_PYTHON_GIT_EXECUTABLE": "/nonexistent/git", **HOMELESS}, True),
        (ANOTHER_USER, True),
        ({"GIT_DIR": "/nonexistent"}, False),  # of another repository
    ],
)
def test_an_experiment_is_made_and_a_remark_printed_if_git_cannot_read_the_clone(environment, is_unknown):
    program = (  # the part that needs git, without the seconds that PyTorch takes
        "from pathlib import Path; from util.config import command_line as c; from util.remarks import *; "
        "e = c.new_experiment('x', Path('.'))\nwith printed_remarks(): c.remark_on_unknown_commit(e)"
    )
    ended = _run(["-c", program], **environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert ("remark: commit unknown: git cannot read this clone (" in ended.stdout) is is_unknown


def test_a_preparation_does_not_depend_on_it(tmp_path):
    write_custom_numbered(
        tmp_path / "raw", n_scans=2, labels={"background": 0, "Schädel 头": 1, "right femur": 3}
    )
    words = [
        "-m",
        "data.prepare",
        "dataset=Hips",
        f"raw={tmp_path}/raw",
        f"data_dir={tmp_path}/out",
        *ONE_PROCESS,
    ]
    ended = _run(words, **NOTEBOOK, **ASCII, **OPTIMISED)  # neither hides what another would do
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out/contact_sheet.png").stat().st_size > 1000


def test_a_contact_sheet_that_cannot_be_drawn_ends_no_preparation(tmp_path, monkeypatch, capsys):
    write_custom_numbered(tmp_path / "raw", n_scans=2)
    monkeypatch.setattr(summary, "draw_contact_sheet", draw_contact_sheet)  # for this test, the real one
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # its import fails
    assert main(["dataset=Hips", f"raw={tmp_path}/raw", f"data_dir={tmp_path}/out", *ONE_PROCESS]) == 0
    assert "no contact_sheet.png, as matplotlib cannot be used (import of " in capsys.readouterr().out
    assert (tmp_path / "out/fingerprint.json").is_file()
    assert not (tmp_path / "out/contact_sheet.png").exists()


def test_the_scripts_take_away_what_would_lead_python_elsewhere():
    names = ("PYTHONSAFEPATH", "PYTHONHOME", "PYTHONINSPECT")
    shown = "; ".join(f"echo ${{{name}-unset}}" for name in names)
    ended = subprocess.run(
        ["bash", "-c", f"source script/environment.sh; {shown}"],
        cwd=REPOSITORY,
        env={**os.environ, **dict.fromkeys(names, "1")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == ["unset"] * 3
