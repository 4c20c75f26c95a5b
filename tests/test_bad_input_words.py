"""Configurations, archives and words that cannot be meant cost one line, and no code in them is run."""

import zipfile
from pathlib import Path

import pytest

from data.prepare.__main__ import main as prepare
from tests.bad_inputs import Workspace, refusal, set_trap, train

pytestmark = pytest.mark.usefixtures("narrow_encoder")


@pytest.fixture(name="workspace")
def _workspace(overrides_for, tmp_path):
    return Workspace(tmp_path, tuple(overrides_for(tmp_path / "runs")[1:]))


# What sacred itself would run.
CODE = '{"seed": {"py/reduce": [{"py/function": "os.getcwd"}, {"py/tuple": []}]}}'
CONFIGS = {
    "broken": ("c.json", '{"n_steps": ', "c.json: must be JSON (Expecting value"),
    "empty": ("c.json", "", "c.json: must be JSON (Expecting value"),
    "deep": ("c.json", "[" * 100_000, "c.json: must be JSON (maximum recursion"),
    "long number": (
        "c.json",
        '{"seed": ' + "9" * 5000 + "}",
        "c.json: must be JSON (",
    ),
    "list": ("c.json", "[1]", "c.json: must be a JSON object"),
    "yaml with code": (
        "c.yaml",
        "seed: !!python/object/apply:os.getcwd []",
        "c.yaml: must be key=value or an exist",
    ),
    "json with code": ("c.json", CODE, "' is not a key; nest the keys"),
    "python": (
        "c.py",
        "raise SystemExit",
        "c.py: must be key=value or an existing configuration file (JSON)",
    ),
    "unknown key": ("c.json", '{"n_stps": 3}', "n_stps: unknown configuration key; did you mean n_steps?"),
    "unknown deep key": (
        "c.json",
        '{"optim": {"lrr": 3}}',
        "optim.lrr: unknown configuration key; did you mean",
    ),
    "key of dots": ("c.json", '{"optim.lr": 3}', "c.json: 'optim.lr' is not a key; nest the keys of a group"),
    "no key": ("c.json", '{"": 3}', "c.json: '' is not a key"),
    "key twice": (
        "c.json",
        '{"seed": 3, "seed": 4}',
        "c.json: duplicate keys seed",
    ),
    "wrong type": ("c.json", '{"optim": {"lr": [1]}}', "optim.lr=[1]: must be a number above 0"),
    "wrong type of a group": ("c.json", '{"path": {"CMR": 3}}', "path.CMR=3: is a group of keys; set them"),
    "NaN": ("c.json", '{"optim": {"lr": NaN}}', "optim.lr=nan: must be a number above 0"),
    "infinity": ("c.json", '{"optim": {"lr": 1e400}}', "optim.lr=inf: must be a number above 0"),
    "huge": (
        "c.json",
        '{"batch_size": 1' + "0" * 20 + "}",
        "00: is too large; must be a whole number of at least 1",
    ),
    "huge fraction": (
        "c.json",
        '{"optim": {"lr": ' + "9" * 400 + "}}",
        "999: is too large; must be a number above 0",
    ),
    "negative": (
        "c.json",
        '{"image_size_px": [-48, 48]}',
        "image_size_px=[-48, 48]: must be a list of 2 values",
    ),
    "a path with a zero": ("c.json", '{"reload_model_path": "a\\u0000"}', "must be a non-empty text"),
}


@pytest.mark.parametrize(("name", "text", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_file_that_cannot_be_meant(workspace, capsys, name, text, message):
    path = workspace.root / name
    path.write_text(text)
    line = refusal(lambda: train(*workspace.words, str(path)), capsys, workspace.root)
    assert message in line
    assert len(line) < 400


def test_a_pickle_or_a_folder_is_no_configuration_file(workspace, capsys):
    set_trap(workspace.root / "c.pickle", workspace.root / "ran")
    (workspace.root / "c.json").mkdir()
    for name in ("c.pickle", "c.json"):
        line = refusal(lambda: train(*workspace.words, str(workspace.root / name)), capsys, workspace.root)  # noqa: B023
        assert f"{name}: must be key=value or an existing configuration file (JSON)" in line
    assert not (workspace.root / "ran").exists()


def zip_of(path, name):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"content")


ARCHIVES = {
    "broken": (
        lambda path: (zip_of(path, "a.txt"), path.write_bytes(path.read_bytes()[:-30])),
        "whole zip file",
    ),
    "text": (lambda path: path.write_text("<html>"), "must be a whole zip file"),
    "path out of it": (lambda path: zip_of(path, "../../ran"), "must hold MS-CMRSeg's"),
    "absolute path": (lambda path: zip_of(path, "/tmp/hcpmnet_ran"), "must hold MS-CMRSeg's"),
}


@pytest.mark.parametrize(("make", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_cannot_be_prepared(tmp_path, capsys, make, message):
    path = tmp_path / "in" / "download.zip"
    path.parent.mkdir()
    make(path)
    words = ["dataset=CMR", f"raw={path}", f"data_dir={tmp_path / 'in' / 'CMR'}", "num_workers=1"]
    line = refusal(lambda: prepare(words), capsys, tmp_path)
    assert line.startswith(str(path))
    assert message in line
    assert not Path("/tmp/hcpmnet_ran").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("word", ["=5", "$x=3", "optim..lr=3", ".lr=3", "optim.=3", "a b=3"])
def test_words_that_are_no_keys(workspace, capsys, word):
    assert f"{word}: must be key=value" in refusal(
        lambda: train(*workspace.words, word), capsys, workspace.root
    )
