"""`predict.sh`: it prepares the environment and hands over; words and exit codes pass unchanged."""

import re
import stat
from pathlib import Path

import pytest

from data.prediction_settings import PredictConfig
from util.config.settings import describe_keys

REPO_ROOT = Path(__file__).parents[2]
STUB = """
import json, os, sys
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("STUB_CODE", 0)))
"""


@pytest.fixture(name="clone")
def _clone(clone):
    """A clone with a stub of the command."""
    (clone.root / "prediction.py").write_text(STUB)
    return clone


def test_it_is_executable_and_explains_every_key_and_its_limits(clone):
    assert (REPO_ROOT / "script/predict.sh").stat().st_mode & stat.S_IXUSR
    result = clone.run("script/predict.sh", "--help", PATH="/usr/bin:/bin", VIRTUAL_ENV="/nowhere")
    assert (result.returncode, result.stderr) == (0, "")
    explained = re.findall(r"^  (\w+)= +\S", result.stdout, flags=re.MULTILINE)
    assert explained == [name for name, *_ in describe_keys(PredictConfig)]
    assert "not a medical\ndevice" in result.stdout
    assert not clone.calls()


@pytest.mark.parametrize("code", [0, 2, 3])
def test_words_and_exit_codes_pass_unchanged(clone, code):
    arguments = ["query=my scans/*.nii.gz", "out=$HOME", "labels=1:left kidney"]
    result = clone.run("script/predict.sh", *arguments, STUB_CODE=str(code))
    assert (result.returncode, clone.calls()) == (code, [arguments])
