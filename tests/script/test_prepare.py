"""`prepare.sh`: it prepares the environment and hands over; words and exit codes pass unchanged."""

import os
import re
import signal
import stat
from pathlib import Path

import pytest

from data.data_settings import PrepareConfig, RestoreConfig
from data.datasets import RAW_DATASETS
from util.config.settings import describe_keys

REPO_ROOT = Path(__file__).parents[2]

STUB_PREPARE = """
import json, os, sys, time
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "dataset=WAITS" in sys.argv:
    try:
        print("waiting", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        sys.exit(130)
sys.exit(int(os.environ.get("STUB_CODE", 0)))
"""


@pytest.fixture(name="clone")
def _clone(clone):
    """A clone with a stub of the command."""
    (clone.root / "data/prepare.py").write_text(STUB_PREPARE)
    return clone


def test_it_is_executable_and_prints_its_usage_without_an_environment(clone):
    assert (REPO_ROOT / "script/prepare.sh").stat().st_mode & stat.S_IXUSR
    for words in (["--help"], ["dataset=CMR", "-h"]):
        result = clone.run("script/prepare.sh", *words, PATH="/usr/bin:/bin", VIRTUAL_ENV="/nowhere")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("usage: bash script/prepare.sh dataset=<name> raw=<folder or zip>")
    assert not clone.calls()


def test_every_key_and_no_other_is_explained(clone):
    help_text = clone.run("script/prepare.sh", "--help").stdout
    explained = re.findall(r"^  (\w+)=(?:True)? +\S", help_text, flags=re.MULTILINE)
    keys = [*describe_keys(PrepareConfig), *describe_keys(RestoreConfig)]
    assert explained == list(dict.fromkeys(name for name, *_ in keys))


def test_help_lists_the_datasets_that_can_be_prepared(clone):
    help_text = clone.run("script/prepare.sh", "--help").stdout
    assert f"\n  dataset=          {', '.join(RAW_DATASETS)}, or the name of your own data\n" in help_text


def test_words_arrive_whole_in_order_and_from_any_folder(clone, tmp_path):
    arguments = ["with", "dataset=CMR", "raw=my scans/$HOME", "note='*'", "--check", "--debug"]
    result = clone.run("script/prepare.sh", *arguments, cwd=tmp_path)
    assert (result.returncode, clone.calls()) == (0, [arguments])


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_the_exit_code_is_the_commands(clone, code):
    result = clone.run("script/prepare.sh", "dataset=CMR", STUB_CODE=str(code))
    assert result.returncode == code


@pytest.mark.parametrize(
    ("send", "number", "code"),
    [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, -signal.SIGTERM)],
)
def test_signals_reach_the_command(clone, send, number, code):
    job = clone.start("script/prepare.sh", "dataset=WAITS")
    for line in job.stdout:
        if line == "waiting\n":
            break
    send(job.pid, number)
    job.communicate(timeout=10)
    assert job.returncode == code


def test_the_extension_is_built_first(clone):
    for built in clone.root.glob("data/supervoxels/*.so"):
        built.unlink()
    before = clone.n_builds()
    assert clone.run("script/prepare.sh", "dataset=CMR").returncode == 0
    assert clone.n_builds() == before + 1
