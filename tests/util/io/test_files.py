"""A file is replaced completely or not at all."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from util.errors import UserError
from util.io import files
from util.io.files import atomic_write, make_folder, remove_file, remove_leftovers, try_lock, write_text

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(name="path")
def _path(tmp_path):
    """A file with old content."""
    path = tmp_path / "table.csv"
    path.write_text("old")
    return path


def _raise_no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _assert_untouched(path):
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_new_content_replaces_the_old(path):
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_the_temporary_file_is_a_sibling_with_the_requested_suffix(path):
    with atomic_write(path, suffix=".nii.gz") as temporary:
        # Another folder may be another disk, onto which nothing can be renamed.
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        assert temporary.name.startswith(".")


def test_missing_folders_are_created(tmp_path):
    write_text(tmp_path / "a" / "b" / "note.txt", "größer")
    assert (tmp_path / "a" / "b" / "note.txt").read_bytes() == "größer".encode()


def _write_half(path, error):
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("defect"), KeyboardInterrupt(), UserError("bad")])
def test_a_failed_write_keeps_the_previous_file_and_its_exception(path, error):
    with pytest.raises(type(error)) as caught:
        _write_half(path, error)
    assert caught.value is error
    _assert_untouched(path)


def test_a_failed_write_creates_no_file(tmp_path):
    with pytest.raises(ValueError, match="defect"), atomic_write(tmp_path / "new.txt"):
        raise ValueError("defect")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_the_writer_is_reported_in_one_line(path):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match=r"table\.csv: cannot be written \(No space left") as caught:
        _write_half(path, error)
    assert "\n" not in str(caught.value)
    _assert_untouched(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_after_the_writer_leaves_the_previous_file(path, monkeypatch, step):
    monkeypatch.setattr(files.os, step, _raise_no_space)
    with pytest.raises(UserError, match="No space left on device"):
        write_text(path, "new")
    _assert_untouched(path)


def test_content_is_synced_before_it_is_renamed(path, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        monkeypatch.setattr(files.os, name, lambda *_, step=name: steps.append(step))
    write_text(path, "new")
    assert steps == ["fsync", "replace", "fsync"]  # the folder at last


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(path):
    with pytest.raises(UserError, match=r"cannot be written \(.+\); free some space or choose another"):
        write_text(path / "inside a file.txt", "new")
    _assert_untouched(path)


def test_a_folder_instead_of_a_file_is_reported_in_one_line(tmp_path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(UserError, match="taken: cannot be written"):
        write_text(tmp_path / "taken", "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "note.txt", "")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "note.txt").stat().st_mode & 0o777 == mode


def test_a_folder_is_created_with_its_parents_or_kept(tmp_path):
    folder = tmp_path / "runs" / "fold_0"
    assert make_folder(folder, key="path.log_dir") == folder
    (folder / "note.txt").write_text("kept")
    assert make_folder(folder, key="path.log_dir") == folder
    assert (folder / "note.txt").read_text() == "kept"


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_instead_of_a_folder_is_reported_with_the_key(path, below):
    with pytest.raises(
        UserError, match=r"^path\.log_dir: .*table\.csv.* cannot be created \(.+\); choose another folder$"
    ) as caught:
        make_folder(path / below, key="path.log_dir")
    assert "\n" not in str(caught.value)
    _assert_untouched(path)


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(path):
    leftovers = [".table.csv.abc_1234.tmp", "..image_7.nii.gz.abcdefgh.tmp.nii.gz.12345678.tmp.nii.gz"]
    remaining = [
        "table.csv",
        ".table.csv",
        ".hidden.tmp",
        "table.csv.abc_1234.tmp",
        ".table.csv.ABC_1234.tmp",
    ]
    for name in [*leftovers, *remaining]:
        (path.parent / name).touch()
    remove_leftovers(path.parent)
    assert sorted(entry.name for entry in path.parent.iterdir()) == sorted(remaining)


def test_a_file_being_written_is_not_a_leftover(path):
    with atomic_write(path, suffix=".csv") as temporary:
        temporary.write_text("new")
        remove_leftovers(path.parent)
        assert temporary.exists()
    assert path.read_text() == "new"


def test_leftovers_of_a_killed_writer_differ_from_files_being_written(path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom util.io.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2
    remove_leftovers(path.parent)
    _assert_untouched(path)


def test_recent_files_on_network_file_systems_are_kept(path, monkeypatch):
    monkeypatch.setattr(files, "_LOCAL_FILE_SYSTEMS", set())
    leftover = path.parent / ".table.csv.abcd1234.tmp"
    leftover.touch()
    remove_leftovers(path.parent)
    assert leftover.exists()
    an_hour_ago = time.time() - 3600
    os.utime(leftover, (an_hour_ago, an_hour_ago))
    remove_leftovers(path.parent)
    assert not leftover.exists()


def test_a_missing_folder_has_no_leftovers(tmp_path):
    remove_leftovers(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_lock_is_held_until_the_file_is_closed(path):
    with path.open() as first, path.open() as second:
        assert try_lock(first.fileno())
        assert try_lock(second.fileno()) is False
        first.close()
        assert try_lock(second.fileno())


def test_writing_needs_no_locks(path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with path.open() as file:
        assert try_lock(file.fileno()) is None
    write_text(path, "new")
    (path.parent / ".table.csv.abcdefgh.tmp").touch()
    remove_leftovers(path.parent)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".table.csv.abcdefgh.tmp", "table.csv"]


def test_a_file_is_removed_if_it_exists(path):
    remove_file(path)
    remove_file(path)
    assert list(path.parent.iterdir()) == []


def test_a_file_that_cannot_be_removed_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"folder: cannot be removed \(.+\); make its folder writable$"):
        remove_file(make_folder(tmp_path / "folder", key="x"))
