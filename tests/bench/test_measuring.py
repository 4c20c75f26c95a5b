import os
import time

import pytest

from bench import measuring
from bench.measuring import (
    Measurement,
    measure_alternately,
    measure_in_process,
    measure_usage,
    time_calls,
)

HERE = "tests.bench.test_measuring"


# Targets that run in separate processes


def allocate(n_mb, repeats=1):
    memory = bytearray(n_mb * 1_000_000)
    memory[::1024] = b"1" * len(memory[::1024])
    return {"seconds": [0.5] * repeats, "n_mb": n_mb, "process": os.getpid()}


def return_peak():
    return {"seconds": [1.0], "peak_mb": 7.0, "threads": os.environ["OMP_NUM_THREADS"]}


def fail(kind):
    from util.errors import UserError

    raise {"user": UserError, "defect": RuntimeError}[kind]("invalid input")


def test_warm_up_calls_are_not_timed():
    calls = []
    seconds = time_calls(lambda: calls.append(0), 3, warm_up=2, synchronize=lambda: calls.append(1))
    assert calls == [0, 1] * 5
    assert len(seconds) == 3


def test_timing_includes_synchronisation():
    (seconds,) = time_calls(lambda: None, 1, warm_up=0, synchronize=lambda: time.sleep(0.02))
    assert seconds >= 0.02


def test_peak_memory_excludes_that_of_the_parent_process():
    parent_memory = bytearray(300_000_000)
    parent_memory[::1024] = b"1" * len(parent_memory[::1024])
    small, large = (
        measure_in_process(f"{HERE}:allocate", n_mb=1),
        measure_in_process(f"{HERE}:allocate", n_mb=200),
    )
    assert 190 < large.peak_mb - small.peak_mb < 230
    assert small.peak_mb < 200
    assert small.extra["import_mb"] <= small.peak_mb
    assert large.extra["n_mb"] == 200


def test_variants_alternate_and_each_round_is_a_separate_process():
    variants = {
        "a": (f"{HERE}:allocate", {"n_mb": 1, "repeats": 2}),
        "b": (f"{HERE}:return_peak", {}),
    }
    measured = measure_alternately(variants, rounds=2, environment={"OMP_NUM_THREADS": "3"})
    assert measured["a"].seconds == (0.5,) * 4
    assert measured["b"] == Measurement((1.0, 1.0), 7.0, measured["b"].extra)
    assert measured["b"].extra["threads"] == "3"
    assert measured["a"].extra["process"] != os.getpid()


def test_a_user_error_in_the_process_exits_with_one_line(capfd):
    with pytest.raises(SystemExit) as raised:
        measure_in_process(f"{HERE}:fail", kind="user")
    assert raised.value.code == 2
    assert capfd.readouterr().err == "error: invalid input\n"


def test_a_bug_in_the_process_keeps_its_traceback(capfd):
    with pytest.raises(measuring.subprocess.CalledProcessError):
        measure_in_process(f"{HERE}:fail", kind="defect")
    assert "RuntimeError: invalid input" in capfd.readouterr().err


def test_usage_counts_processor_time_and_the_pages_of_new_memory():
    def work():
        memory = bytearray(64_000_000)
        memory[::4096] = b"1" * len(memory[::4096])
        return sum(range(1_000_000))

    asleep, used = measure_usage(lambda: time.sleep(0.05)), measure_usage(work)
    assert asleep["cpu_s"] < 0.05
    assert used["cpu_s"] > 0.005
    assert 0 <= used["system_s"] <= used["cpu_s"]
    assert used["page_faults"] > asleep["page_faults"]
