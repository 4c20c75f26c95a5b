"""A folder that cannot be is message by its key before anything is made."""

import os

import pytest

from util.errors import UserError
from util.io.folders import check_folder


def test_existing_or_creatable_folders_pass(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "a" / "b", tmp_path / "link", tmp_path / "link" / "a"):
        check_folder(folder, key="path.log_dir", for_writing=True)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file", r": must be a folder, found a file at .*/file; choose another one"),
        ("file/a/b", r": must be a folder, found a file at .*/file; choose another one"),
        ("link", r": .*/link is a link to .*/gone, which does not exist; mount or create that"),
        ("link/a", r": .*/link is a link to .*/gone, which does not exist; mount or create that"),
        ("x" * 300, r": not a valid folder \(.*File name too long"),
    ],
)
def test_an_obstacle_is_named(tmp_path, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=f"path.log_dir=.*{message}"):
        check_folder(tmp_path / name, key="path.log_dir")


def test_a_read_only_folder_is_refused_only_for_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _, mode: False)
    check_folder(tmp_path, key="path.log_dir")
    with pytest.raises(UserError, match=r"path.log_dir=.*: cannot be written; choose another folder"):
        check_folder(tmp_path / "a", key="path.log_dir", for_writing=True)
