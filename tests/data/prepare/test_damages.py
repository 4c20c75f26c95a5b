"""Every damaged download costs the command's user one line, code 2, and leaves nothing behind."""

import re

import pytest

from data.prepare.__main__ import main
from tests.data.raw.damages import DAMAGES


def everything_below(folder):
    return {path: path.is_file() and path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: f"{damage.dataset}: {damage.name}")
@pytest.mark.parametrize("words", [[], ["--check"]], ids=["prepare", "check"])
def test_a_damaged_download_is_reported_in_one_line(damage, words, tmp_path, capsys):
    dataset, raw = damage.make(tmp_path / "raw")
    before = everything_below(tmp_path)
    folders = [f"raw={raw}", f"data_dir={tmp_path}/prepared/{dataset}", "num_workers=1"]
    code = main([f"dataset={dataset}", *folders, *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert (code, line[:7]) == (2, "error: ")
    assert re.search(damage.words, line)
    assert ".unpacked." not in line  # the archive is named, not a folder that is gone
    assert everything_below(tmp_path) == before
