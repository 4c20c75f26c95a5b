"""OpenMP threads sleep while other programs need the cores, spin otherwise, and compute the same."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
import torch

from config_ssl_upload import REPOSITORY
from util.parallel import wait_policy
from util.parallel.wait_policy import AdaptiveWaitPolicy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP and /proc")


@pytest.fixture(name="load")
def _load(monkeypatch):
    """Set the share of the time in which threads wait for a core; samples follow each other quickly."""
    monkeypatch.setattr(wait_policy, "_SAMPLE_S", 0.01)
    state = {"share": 0.0, "waited": 0.0, "time": time.monotonic()}

    def seconds_without_core():
        now = time.monotonic()
        state["waited"] += state["share"] * (now - state["time"])
        state["time"] = now
        return state["waited"]

    monkeypatch.setattr(wait_policy, "_seconds_without_core", seconds_without_core)
    return state


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def watcher_threads():
    return [thread for thread in threading.enumerate() if thread.name.endswith(("policy", "team"))]


def n_tasks():
    return len(list(wait_policy.Path("/proc/self/task").iterdir()))


def test_threads_sleep_on_busy_cores_and_spin_again_on_free_ones(load):
    product = torch.ones(64, 64) @ torch.ones(64, 64)
    before = n_tasks()
    with AdaptiveWaitPolicy({}) as policy:
        assert not policy.sleeps
        load["share"] = 0.5
        wait_until(lambda: policy.sleeps)
        assert n_tasks() > before
        assert torch.equal(torch.ones(64, 64) @ torch.ones(64, 64), product)
        load["share"] = 0.05  # neither busy nor quiet: nothing changes
        time.sleep(0.2)
        assert policy.sleeps
        load["share"] = 0.0
        wait_until(lambda: not policy.sleeps)
    assert watcher_threads() == []


def test_nothing_is_left_behind_when_it_ends_on_busy_cores(load):
    load["share"] = 1.0
    with AdaptiveWaitPolicy({}) as policy:
        wait_until(lambda: policy.sleeps)
    assert not policy.sleeps
    assert watcher_threads() == []


def test_a_context_inside_of_another_starts_no_thread_and_ends_nothing(load):
    load["share"] = 1.0
    with AdaptiveWaitPolicy({}) as policy:
        wait_until(lambda: policy.sleeps)
        threads = watcher_threads()
        with suppress(KeyError), AdaptiveWaitPolicy({}) as inner:
            assert inner.sleeps
            assert watcher_threads() == threads
            raise KeyError
        assert policy.sleeps
        assert watcher_threads() == threads
    assert watcher_threads() == []


def test_contexts_of_several_threads_share_a_watcher_until_the_last_ends(load):
    with ExitStack() as first, ExitStack() as second, ThreadPoolExecutor(1) as other:
        first.enter_context(AdaptiveWaitPolicy({}))
        [watcher] = watcher_threads()
        other.submit(second.enter_context, AdaptiveWaitPolicy({})).result()
        assert watcher_threads() == [watcher]
        first.close()
        assert watcher_threads() == [watcher]
        load["share"] = 1.0
        wait_until(lambda: AdaptiveWaitPolicy().sleeps)
        other.submit(second.close).result()
        assert watcher_threads() == []


def test_a_decorated_function_runs_within_the_policy_at_each_call(load):
    policy = AdaptiveWaitPolicy({})

    @policy
    def add_until_asleep(one, *, other):
        """Return the sum."""
        wait_until(lambda: policy.sleeps)
        return one + other

    load["share"] = 1.0
    assert (add_until_asleep.__doc__, watcher_threads()) == ("Return the sum.", [])
    for _ in range(2):
        assert add_until_asleep(1, other=2) == 3
        assert watcher_threads() == []


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_the_users_policy_is_left_alone(load, name):
    load["share"] = 1.0
    with AdaptiveWaitPolicy({name: "active"}) as policy:
        time.sleep(0.1)
        assert not policy.sleeps
        assert watcher_threads() == []


def test_without_gnu_openmp_or_scheduler_statistics_it_does_nothing(load, monkeypatch):
    load["share"] = 1.0
    monkeypatch.setattr(wait_policy, "_find_empty_region", lambda: None)
    with AdaptiveWaitPolicy({}) as policy:
        time.sleep(0.1)
        assert not policy.sleeps
    monkeypatch.undo()
    monkeypatch.setattr(wait_policy, "_seconds_without_core", lambda: None)
    with AdaptiveWaitPolicy({}) as policy:
        assert not policy.sleeps


CROWDED = """
import os, subprocess, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from util.parallel.wait_policy import _seconds_without_core
program = "print(flush=True)\\nwhile True: pass"
other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
other.stdout.readline()
before, end = _seconds_without_core(), time.monotonic() + 1
while time.monotonic() < end:
    pass
print(_seconds_without_core() - before)
other.kill()
"""


def test_time_without_a_core_is_measured():
    if wait_policy._seconds_without_core() is None:
        pytest.skip("this kernel has no scheduler statistics")
    command = [sys.executable, "-c", CROWDED]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert 0.1 < float(done.stdout) < 1.5  # two busy programs on one core
