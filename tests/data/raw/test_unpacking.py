"""Archives unpack whole or not at all, and never outside of their folder."""

import io
import os
import zipfile

import pytest

from data.raw import unpacking
from data.raw.unpacking import unpack
from util.errors import UserError


def _archive(folder, **contents):
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents.items():
            packed.writestr(name.replace("__", "/"), content)
    return path


def _contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_and_folders_come_out_as_they_were(tmp_path):
    archive = _archive(tmp_path, **{"a/": b"", "a/b.txt": b"1", "a/c/d.bin": bytes(3_000_000), "empty": b""})
    into = tmp_path / "deep" / "into"
    assert unpack(archive, into) == into
    assert _contents(into) == {"a/b.txt": b"1", "a/c/d.bin": bytes(3_000_000), "empty": b""}
    assert os.listdir(tmp_path / "deep") == ["into"]


def test_backslashes_part_folders(tmp_path):
    assert _contents(unpack(_archive(tmp_path, **{"a\\b.txt": b"1"}), tmp_path / "into")) == {"a/b.txt": b"1"}


def test_an_empty_folder_may_exist_and_a_full_one_is_left_alone(tmp_path):
    archive = _archive(tmp_path, a=b"1")
    (tmp_path / "into").mkdir()
    unpack(archive, tmp_path / "into")
    with pytest.raises(UserError, match=r"into: must not exist or be empty to unpack a\.zip"):
        unpack(archive, tmp_path / "into")
    assert _contents(tmp_path / "into") == {"a": b"1"}


def test_limits_count_everything_and_allow_what_they_say(tmp_path):
    archive = _archive(tmp_path, a=bytes(600), b=bytes(400))
    with pytest.raises(UserError, match="must unpack to at most"):
        unpack(archive, tmp_path / "into", max_bytes=999)
    with pytest.raises(UserError, match="must hold at most 1 entries, got 2"):
        unpack(archive, tmp_path / "into", max_entries=1)
    assert os.listdir(tmp_path) == ["a.zip"]
    unpack(archive, tmp_path / "into", max_bytes=1000, max_entries=2)


def test_nothing_is_written_if_the_directory_claims_too_much(tmp_path, monkeypatch):
    archive = _archive(tmp_path, a=bytes(1000))
    monkeypatch.setattr(unpacking.tempfile, "mkdtemp", lambda **_: pytest.fail("something was written"))
    with pytest.raises(UserError, match="must unpack to at most"):
        unpack(archive, tmp_path / "into", max_bytes=999)


def test_writing_stops_if_more_comes_out_than_claimed(tmp_path, monkeypatch):
    archive = _archive(tmp_path, a=bytes(10))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: io.BytesIO(bytes(5000)))
    with pytest.raises(UserError, match="holds more than its directory claims"):
        unpack(archive, tmp_path / "into", max_bytes=4000)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_disk_too_small_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    archive = _archive(tmp_path, a=bytes(1000))
    usage = unpacking.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"has 0\.00 GB left; free some space"):
        unpack(archive, tmp_path / "into")
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_stays_behind_when_writing_ends_early(tmp_path, monkeypatch, error):
    archive = _archive(tmp_path, a=b"1", b=b"2")
    opened = zipfile.ZipFile.open

    def fail_at_b(self, entry, *rest):
        if getattr(entry, "filename", "") == "b":
            raise error
        return opened(self, entry, *rest)

    monkeypatch.setattr(zipfile.ZipFile, "open", fail_at_b)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else UserError
    with pytest.raises(expected):
        unpack(archive, tmp_path / "into")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_missing_archive_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"a\.zip: no such file"):
        unpack(tmp_path / "a.zip", tmp_path / "into")
