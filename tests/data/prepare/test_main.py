"""`python -m data.prepare`: its words, what it says and how it ends."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.data_settings import PrepareConfig
from data.datasets import find_spec
from data.prepare import __main__ as command
from data.prepare.__main__ import main, parse_words
from tests.data.raw.raw_sets import write_custom_numbered, write_json
from util.config.settings import describe_keys
from util.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
NEEDED = ["dataset=Hips", "raw=scans"]


@pytest.mark.parametrize("words", [NEEDED, ["with", *NEEDED], ["dataset = Hips ", " raw= scans"]])
def test_with_and_blanks_make_no_difference(words):
    assert parse_words(words) == PrepareConfig(dataset="Hips", raw="scans")


def test_every_key_can_be_set():
    words = ["data_dir=/a b", "supervoxel_dir=c", "n_sv=300", "num_workers=3", "check=True", "force=True"]
    assert parse_words([*NEEDED, *words]) == PrepareConfig(
        dataset="Hips",
        raw="scans",
        data_dir="/a b",
        supervoxel_dir="c",
        n_sv=300,
        num_workers=3,
        check=True,
        force=True,
    )


@pytest.mark.parametrize("name", ["check", "force"])
def test_a_switch_may_be_set_as_an_option(name):
    assert parse_words([*NEEDED, f"--{name}"]) == parse_words([*NEEDED, f"{name}=True"])
    assert not getattr(parse_words([*NEEDED, f"{name}=False"]), name)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2019", "2019"), ("'my scans'", "my scans"), ("[1]", "[1]"), ("a=b", "a=b"), ("1e5", "1e5")],
)
def test_a_folder_may_be_called_anything(text, value):
    assert parse_words(["dataset=Hips", f"raw={text}"]).raw == value


def test_a_tilde_in_a_path_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    prepared = parse_words(["dataset=Hips", "raw=~/a.zip", "data_dir=~/data", "supervoxel_dir=~/supervoxels"])
    paths = (prepared.raw, prepared.data_dir, prepared.supervoxel_dir)
    assert paths == ("/home/me/a.zip", "/home/me/data", "/home/me/supervoxels")
    restored = parse_words(["dataset=Hips", "--back", "~/masks", "out=~/out", "data_dir=~/data"])
    assert (restored.back, restored.out, restored.data_dir) == (
        "/home/me/masks",
        "/home/me/out",
        "/home/me/data",
    )


def test_none_is_the_default():
    assert parse_words([*NEEDED, "data_dir=None", "n_sv=None"]) == parse_words(NEEDED)


def test_folders_and_supervoxel_size_default_to_the_datasets():
    config = parse_words(["dataset=CMR", "raw=scans"])
    layout = config.layout_of(find_spec("CMR"))
    assert layout.image_path(3) == Path("data/CMR/cmr_MR_normalized/image_3.nii.gz")
    assert layout.supervoxel_path(3) == Path("data/CMR/supervoxels_1000/superpix-MIDDLE_3.nii.gz")


BAD_WORDS = {
    "no dataset": (["raw=scans"], "dataset: missing key; set it, as dataset=CHAOST2"),
    "no download": (["dataset=CMR"], "raw: missing key; set it, as raw=downloads/CHAOS_Train_Sets.zip"),
    "no value": (["dataset=", "raw=scans"], "dataset='': must be CHAOST2, SABS, CMR, or a name"),
    "path for a name": (
        ["dataset=../x", "raw=scans"],
        "dataset='../x': must be CHAOST2, SABS, CMR, or a name",
    ),
    "unknown key": (
        [*NEEDED, "num_worker=2"],
        "num_worker: unknown configuration key; did you mean num_workers",
    ),
    "wrong type": ([*NEEDED, "n_sv=many"], "n_sv='many': must be a whole number of at least 1, or None"),
    "no workers": ([*NEEDED, "num_workers=0"], "num_workers=0: must be a whole number of at least 1 and at"),
    "no switch": ([*NEEDED, "check=maybe"], "check='maybe': must be True or False"),
    "unknown option": ([*NEEDED, "--chekc"], "cannot understand '--chekc'; write key=value, or --help"),
    "option with value": ([*NEEDED, "--check=True"], "cannot understand '--check=True'; write key=value"),
    "no folder after --back": (["--back", "dataset=CMR"], "--back: needs a folder, as --back runs/CHAOST2"),
    "lone word": ([*NEEDED, "scans"], "cannot understand 'scans'; write key=value, or --help for the keys"),
    "with at the end": ([*NEEDED, "with"], "cannot understand 'with'"),
    "no key": ([*NEEDED, "=3"], "cannot understand '=3'"),
    "synthetic": (["dataset=PHANTOM", "raw=."], "dataset=PHANTOM: is synthetic"),
    "nothing there": (["dataset=CMR", "raw=gone"], "raw=gone: no such file or folder ("),
    "another dataset": (["dataset=CMR", "raw=scans"], ""),
    "no archive": (["dataset=CMR", "raw=note.txt"], "note.txt: must be a whole zip file"),
    **{
        f"a name that is no text, {name}": (
            [f"dataset={name}", "raw=scans"],
            f"dataset='{name}': must be CHAOST2, SABS, CMR, or a name of at most",
        )
        for name in ("123", "1e5", "True", "2_0", "0x1F")
    },
    "data folder is a file": ([*NEEDED, "data_dir=note.txt"], "data_dir: note.txt cannot be created"),
}


@pytest.mark.parametrize(("words", "message"), BAD_WORDS.values(), ids=BAD_WORDS)
def test_a_mistake_is_reported_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    write_custom_numbered(tmp_path / "scans", n_scans=2)
    (tmp_path / "note.txt").write_text("no archive")
    before = sorted(tmp_path.rglob("*"))
    assert main([*words, "num_workers=1"] if "num_workers=0" not in words else words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_each_invalid_key_costs_one_line(capsys):
    assert main(["datasett=CMR"]) == 2
    texts = ("datasett: unknown configuration key", "dataset: missing key", "raw: missing key")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("; ")[0] for line in lines] == [f"error: {text}" for text in texts]


def test_several_problems_cost_one_line_each(tmp_path, capsys):
    scans = write_custom_numbered(tmp_path / "scans", n_scans=3)
    for scan in scans[:2]:
        scan.image_files[0].write_bytes(b"no image")
    words = ["dataset=Hips", f"raw={tmp_path}/scans", f"data_dir={tmp_path}/out", "num_workers=1"]
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["error", str(scan.image_files[0])] for scan in scans[:2]
    ]
    assert not (tmp_path / "out").exists()


def test_all_problems_of_a_description_are_reported(tmp_path, capsys):
    write_json(tmp_path / "dataset.json", spacing_mm=[1, 2], size_px="large")
    assert main(["dataset=Hips", f"raw={tmp_path}", f"data_dir={tmp_path}/out"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [next(key for key in ("spacing_mm", "size_px") if key in line) for line in lines] == [
        "spacing_mm",
        "size_px",
    ]


def test_debug_shows_the_traceback_of_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        main(["dataset=CMR", f"raw={tmp_path}/gone", "--debug"])


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(command, "prepare_dataset", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(NEEDED)


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_every_key(word, capsys):
    assert main([*NEEDED, word]) == 0
    output = capsys.readouterr().out
    for name, _, _, meaning in describe_keys(PrepareConfig):
        assert f"  {name} " in output
        assert meaning in output


def test_it_runs_as_a_module_without_torch(tmp_path):
    write_custom_numbered(tmp_path / "scans", n_scans=2)
    shutil.make_archive(str(tmp_path / "scans"), "zip", tmp_path / "scans")
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('data.prepare', run_name='__main__')\n"
        "except SystemExit as end:\n    assert 'torch' not in sys.modules\n    sys.exit(end.code)\n"
    )
    words = ["dataset=Hips", f"raw={tmp_path}/scans.zip", f"data_dir={tmp_path}/out", "num_workers=1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 scans checked, no problem" in done.stdout
    assert not (tmp_path / "out").exists()
