"""Archives unpack whole or not at all, and never outside of their folder."""

import os
import stat
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


@pytest.mark.parametrize("name", ["../evil", "a\\..\\..\\evil", "/evil", "\\evil"])
def test_no_entry_leads_out_of_the_folder(tmp_path, name):
    archive = _archive(tmp_path, first=b"1")
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr(name, b"2")
    assert sorted(_contents(unpack(archive, tmp_path / "into")).values()) == [b"1", b"2"]
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "into"]


def test_links_come_out_as_files(tmp_path):
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = _archive(tmp_path)
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr(entry, b"/etc")
    assert not (unpack(archive, tmp_path / "into") / "link").is_symlink()


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

    def fail_at_b(self, entry, *rest, **options):
        if getattr(entry, "filename", "") == "b":
            raise error
        return opened(self, entry, *rest, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", fail_at_b)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else UserError
    with pytest.raises(expected):
        unpack(archive, tmp_path / "into")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_missing_archive_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"a\.zip: no such file"):
        unpack(tmp_path / "a.zip", tmp_path / "into")
