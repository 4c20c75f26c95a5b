import json
import os
import time

import pytest

from bench import measuring
from bench.measuring import (
    Headline,
    Measurement,
    Plot,
    Section,
    Table,
    format_duration,
    format_memory,
    format_memory_ratio,
    format_ratio,
    format_seconds,
    matrix_rate,
    measure_alternately,
    measure_in_process,
    time_calls,
    write_section,
)

HERE = "tests.bench.test_measuring"


# Called in processes of their own


def hold(n_mb, repeats=1):
    block = bytearray(n_mb * 1_000_000)
    block[::1024] = b"1" * len(block[::1024])
    return {"seconds": [0.5] * repeats, "n_mb": n_mb, "process": os.getpid()}


def tell_own_peak():
    return {"seconds": [1.0], "peak_mb": 7.0, "threads": os.environ["OMP_NUM_THREADS"]}


def fail(kind):
    from util.errors import UserError

    raise {"user": UserError, "defect": RuntimeError}[kind]("told in one line")


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


def test_calls_that_warm_up_do_not_count():
    calls = []
    seconds = time_calls(lambda: calls.append(0), 3, warm_up=2, synchronize=lambda: calls.append(1))
    assert calls == [0, 1] * 5
    assert len(seconds) == 3


def test_a_call_is_timed_until_the_device_is_done():
    (seconds,) = time_calls(lambda: None, 1, warm_up=0, synchronize=lambda: time.sleep(0.02))
    assert seconds >= 0.02


def test_each_process_has_its_own_peak_whatever_its_parent_holds():
    parents = bytearray(300_000_000)
    parents[::1024] = b"1" * len(parents[::1024])
    little, much = measure_in_process(f"{HERE}:hold", n_mb=1), measure_in_process(f"{HERE}:hold", n_mb=200)
    assert 190 < much.peak_mb - little.peak_mb < 230
    assert little.peak_mb < 200
    assert little.extra["import_mb"] <= little.peak_mb
    assert much.extra["n_mb"] == 200


def test_variants_run_in_turn_each_round_in_a_process_of_its_own():
    variants = {
        "a": (f"{HERE}:hold", {"n_mb": 1, "repeats": 2}),
        "b": (f"{HERE}:tell_own_peak", {}),
    }
    measured = measure_alternately(variants, rounds=2, environment={"OMP_NUM_THREADS": "3"})
    assert measured["a"].seconds == (0.5,) * 4
    assert measured["b"] == Measurement((1.0, 1.0), 7.0, measured["b"].extra)
    assert measured["b"].extra["threads"] == "3"
    assert measured["a"].extra["process"] != os.getpid()


def test_a_users_mistake_in_the_process_ends_the_benchmark_in_one_line(capfd):
    with pytest.raises(SystemExit) as ended:
        measure_in_process(f"{HERE}:fail", kind="user")
    assert ended.value.code == 2
    assert capfd.readouterr().err == "error: told in one line\n"


def test_a_defect_in_the_process_keeps_its_traceback(capfd):
    with pytest.raises(measuring.subprocess.CalledProcessError):
        measure_in_process(f"{HERE}:fail", kind="defect")
    assert "RuntimeError: told in one line" in capfd.readouterr().err


def test_the_matrix_rate_counts_two_operations_for_each_product(monkeypatch):
    monkeypatch.setattr(
        measuring, "time_calls", lambda function, repeats, **_: [function() is None or 0.5, 2.0]
    )
    assert matrix_rate("float32", n=8) == 2 * 8**3 / 0.5


def test_a_section_is_written_with_machine_and_versions_to_its_devices_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    monkeypatch.setattr(measuring, "describe_machine", lambda device: {"device": device})
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
