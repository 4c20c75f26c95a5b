"""A folder is read where it is; an archive is unpacked for the time of the work and leaves nothing."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from data.prepare.sources import Source, open_source
from util.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(name="archive")
def _archive(tmp_path):
    path = tmp_path / "downloads" / "scans.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("MR/1/a.txt", "one")
    return path


@pytest.mark.parametrize("name", ["", "dataset.json"])
def test_a_folder_is_taken_as_it_is(tmp_path, name):
    (tmp_path / "dataset.json").touch()
    with open_source(tmp_path / name, beside=tmp_path / "out") as source:
        assert source == Source(tmp_path / name)
        assert source.with_archive_path(f"{tmp_path}/a: bad") == f"{tmp_path}/a: bad"
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_an_archive_is_unpacked_beside_the_prepared_folder_and_removed_at_the_end(archive, tmp_path):
    with open_source(archive, beside=tmp_path / "CHAOST2") as source:
        assert (source.folder / "MR/1/a.txt").read_text() == "one"
        hidden = source.folder.relative_to(tmp_path).parts[0]
        assert hidden.startswith(".CHAOST2.unpacked.")
        assert source.with_archive_path(f"{source.folder}/MR/1/a.txt: bad") == f"{archive}/MR/1/a.txt: bad"
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_folders_that_are_missing_are_not_made(archive, tmp_path):
    with open_source(archive, beside=tmp_path / "a" / "b" / "CHAOST2") as source:
        assert source.folder.relative_to(tmp_path).parts[0].startswith(".a.unpacked.")
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


@pytest.mark.parametrize("error", [UserError("bad scan"), KeyboardInterrupt(), ZeroDivisionError()])
def test_nothing_stays_after_a_failure(archive, tmp_path, error):
    with pytest.raises(type(error)), open_source(archive, beside=tmp_path / "CHAOST2"):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_what_a_killed_process_unpacked_is_removed_and_what_is_in_use_is_kept(archive, tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from data.prepare.sources import open_source\n"
        "with open_source(Path(sys.argv[1]), beside=Path(sys.argv[2])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [sys.executable, "-c", code, archive, tmp_path / "CHAOST2"]
    killed = subprocess.run(words, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".CHAOST2.unpacked.*")
    with open_source(archive, beside=tmp_path / "CHAOST2") as first:
        assert not left.exists()
        with open_source(archive, beside=tmp_path / "CHAOST2") as second:
            assert first.folder != second.folder
            assert (first.folder / "MR/1/a.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_a_missing_download_is_reported_with_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = rf"^raw=gone\.zip: no such file or folder \({tmp_path}/gone\.zip\)"
    with pytest.raises(UserError, match=message), open_source(Path("gone.zip"), beside=tmp_path):
        pass


def test_a_damaged_archive_is_named_and_leaves_nothing(archive, tmp_path):
    archive.write_bytes(archive.read_bytes()[:-30])
    message = r"scans\.zip: must be a whole zip"
    with pytest.raises(UserError, match=message) as caught, open_source(archive, beside=tmp_path / "out"):
        pass
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_reported_with_a_hint(archive, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    message = r"locked: nothing can be unpacked there .* choose another data_dir"
    with pytest.raises(UserError, match=message), open_source(archive, beside=tmp_path / "locked" / "out"):
        pass
