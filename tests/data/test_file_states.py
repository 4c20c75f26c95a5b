"""A file counts as changed when its content is, and is read only where that may be."""

import hashlib
import os

import pytest

from data import file_states
from data.file_states import FileState, confirm_state, file_state
from util.errors import UserError


@pytest.fixture(name="path")
def _path(tmp_path):
    path = tmp_path / "scan.bin"
    path.write_bytes(b"voxels" * 300_000)
    return path


def test_a_state_is_the_files_length_time_and_hash(path):
    os.utime(path, ns=(7, 7))
    expected = hashlib.sha256(b"voxels" * 300_000).hexdigest()
    assert file_state(path) == FileState(size_bytes=1_800_000, modified_ns=7, sha256=expected)


def test_an_unchanged_file_is_confirmed_without_being_read(path, monkeypatch):
    known = file_state(path)
    monkeypatch.setattr(file_states, "file_state", lambda path: pytest.fail("it was read"))
    assert confirm_state(known, path) is known


def test_a_file_of_another_time_is_confirmed_by_its_content(path):
    known = file_state(path)
    os.utime(path, ns=(7, 7))
    assert confirm_state(known, path) == FileState(known.size_bytes, 7, known.sha256)


@pytest.mark.parametrize("content", [b"voxelz" * 300_000, b"voxels"])
def test_a_file_of_other_content_is_not(path, content):
    known = file_state(path)
    path.write_bytes(content)
    os.utime(path, ns=(7, 7))
    assert confirm_state(known, path) is None


def test_a_file_that_is_gone_is_not(path):
    known = file_state(path)
    path.unlink()
    assert confirm_state(known, path) is None
    with pytest.raises(UserError, match=r"scan\.bin: cannot be read \(No such file"):
        file_state(path)
