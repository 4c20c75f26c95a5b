import os
import time

import pytest

from bench import measuring
from bench.measuring import Measurement, measure_alternately, measure_in_process, time_calls

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
