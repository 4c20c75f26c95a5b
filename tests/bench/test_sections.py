import json

import pytest

from bench import sections
from bench.measuring import Measurement
from bench.sections import (
    Headline,
    Plot,
    Section,
    Table,
    format_duration,
    format_memory,
    format_memory_ratio,
    format_ratio,
    format_seconds,
    write_section,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.34, "12.3 s"),
        (1.2345, "1.23 s"),
        (123.4, "123 s"),
        (0.9996, "1.00 s"),
        (0.9994, "999 ms"),
        (0.04567, "45.7 ms"),
        (0.0099951, "10.0 ms"),
        (3.2e-6, "3.20 µs"),
    ],
)
def test_durations_have_three_digits_in_a_unit_that_suits_them(seconds, text):
    assert format_duration(seconds) == text


def test_the_spread_stands_behind_the_median_in_its_unit():
    assert format_seconds(Measurement((1.31, 1.2, 1.23), 0.0)) == "1.23 s (1.20-1.31)"
    assert format_seconds(Measurement((0.9, 1.0, 1.1, 0.02), 0.0)) == "950 ms (20.0-1100)"


def test_ratios_are_those_of_medians_and_of_peaks():
    slow, fast = Measurement((1.0, 10.0, 90.0), 900.0), Measurement((3.0, 4.0, 5.0), 200.0)
    assert format_ratio(slow, fast) == "2.50x"
    assert format_memory_ratio(slow, fast) == "4.50x"


def test_memory_changes_its_unit_at_ten_thousand_mb():
    assert format_memory(Measurement((1.0,), 9999.4)) == "9999 MB"
    assert format_memory(Measurement((1.0,), 12345.0)) == "12.3 GB"


def test_a_section_is_written_with_machine_and_versions_to_its_devices_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "ROOT", tmp_path)
    monkeypatch.setattr(sections, "describe_machine", lambda device: {"device": device})
    section = Section(
        title="T",
        command="c",
        intro="i",
        tables=[Table("t", ["a"], [["1"]])],
        plots=[Plot("p.png", "p")],
        headline=[Headline("n", "f", "s", "2x")],
    )
    path = write_section("thing", section, "cuda:1")
    assert path == tmp_path / "bench" / "results" / "cuda" / "thing.json"
    written = json.loads(path.read_text())
    assert written["machine"] == {"device": "cuda:1"}
    assert "Python" in written["versions"]
    assert written["tables"] == [{"caption": "t", "columns": ["a"], "rows": [["1"]]}]
    quick = write_section("thing", section, quick=True)
    assert quick == tmp_path / "build" / "bench" / "results" / "cpu" / "thing.json"
    assert json.loads(path.read_text()) == written
