"""Every fault of a raw set is reported in one line, by the checks and by reading alike."""

import re

import pytest

from data.raw.finding import find_raw
from data.raw.unpacking import unpack
from tests.data.raw.damaged_archives import zip_folder
from tests.data.raw.damages import DAMAGES, reported_lines, table
from tests.data.raw.raw_sets import WRITERS, write_custom_numbered
from util.errors import UserError


def _everything_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.name for damage in DAMAGES])
def test_one_damage_is_reported_in_one_line_and_leaves_nothing_behind(tmp_path, damage, capfd):
    dataset, raw = damage.make(tmp_path / "raw")
    before = _everything_below(tmp_path)
    capfd.readouterr()
    (line,) = reported_lines(dataset, raw)
    assert re.search(damage.words, line)
    assert "; " in line, "no hint is printed"
    assert capfd.readouterr() == ("", "")
    if damage.name != "zip: other data inside":  # unpacked, then found to be something else
        assert _everything_below(tmp_path) == before


def test_the_damages_are_many_and_each_another():
    assert len({damage.name for damage in DAMAGES}) == len(DAMAGES) >= 40
    assert len({(damage.dataset, damage.words) for damage in DAMAGES}) > 90


@pytest.mark.parametrize("dataset", [*WRITERS, "numbered"])
def test_a_good_set_has_no_problems(tmp_path, dataset):
    (write_custom_numbered if dataset == "numbered" else WRITERS[dataset])(tmp_path, n_scans=5)
    assert reported_lines("Hips" if dataset == "numbered" else dataset, tmp_path) == []


def test_reading_raises_what_the_check_reports(tmp_path):
    n_read = 0
    for number, damage in enumerate(DAMAGES):
        dataset, raw = damage.make(tmp_path / str(number) / "raw")
        try:
            result = find_raw(dataset, raw) if raw.is_dir() else None
        except UserError:
            continue
        for scan in result.scans if result else ():
            problems = result.inspect(scan)[1]
            if problems:
                with pytest.raises(UserError) as raised:
                    result.read(scan)
                assert str(raised.value) == problems[0]
                n_read += 1
    assert n_read > 50


def test_several_damages_are_reported_at_once(tmp_path):
    written = WRITERS["SABS"](tmp_path, n_scans=4)
    written[0].image_files[0].write_bytes(b"")
    written[1].label_files[0].write_bytes(b"no")
    written[2].label_files[0].unlink()
    written[3].image_files[0].unlink()
    lines = reported_lines("SABS", tmp_path)
    assert [re.search(r"(img|label)\d+", line)[0] for line in lines] == [
        "label0021",
        "img0001",
        "label0002",
        "img0003",
    ]
    result = find_raw("SABS", tmp_path)
    of_scans = [line for scan in result.scans for line in result.inspect(scan)[1]]
    assert lines == list(result.problems) + of_scans


def test_both_files_of_one_scan_are_reported(tmp_path):
    written = WRITERS["CMR"](tmp_path, n_scans=1)
    written[0].image_files[0].write_bytes(b"")
    written[0].label_files[0].write_bytes(b"")
    assert len(reported_lines("CMR", tmp_path)) == 2


def test_the_table_has_a_row_for_each_damage(monkeypatch):
    monkeypatch.setattr("tests.data.raw.damages.DAMAGES", DAMAGES[:2])
    head, _, first, second = table().splitlines()
    assert head == "| # | set | damage | message |"
    assert first.startswith("| 1 | CHAOST2 | DICOM cut off | raw/Train_Sets/MR/1/T2SPIR/DICOM_anon/IMG-0004-")
    assert second.startswith("| 2 |")


def test_an_archive_of_a_good_set_reads_as_its_folder(tmp_path):
    (written,) = WRITERS["CHAOST2"](tmp_path / "raw", n_scans=1)
    folder = unpack(zip_folder(tmp_path / "raw"), tmp_path / "unpacked")
    result = find_raw("CHAOST2", folder)
    assert (result.read(result.scans[0]).image == written.image).all()
