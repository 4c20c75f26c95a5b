"""Tasks are shared among processes that leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.processes import run_in_processes, usable_cores
from util.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def run(function, tasks, **keywords):
    return run_in_processes(function, tasks, **{"description": "counting", "progress": False, **keywords})


@pytest.mark.parametrize("n_workers", [1, 2, None])
def test_results_stand_in_the_tasks_order_whichever_ends_first(n_workers, monkeypatch):
    monkeypatch.setattr("data.processes.usable_cores", lambda: 2)
    assert run(str.upper, ["b", "a", "d", "c", "a"], n_workers=n_workers) == ["B", "A", "D", "C", "A"]


def test_no_tasks_have_no_results_and_start_nothing(monkeypatch):
    monkeypatch.setattr("data.processes.ProcessPoolExecutor", None)
    assert run(str.upper, [], n_workers=4) == []


OWN_PROCESS = "/proc/self"  # a link to the folder of whoever follows it


def test_one_worker_and_one_task_stay_in_this_process():
    here = os.path.realpath(OWN_PROCESS)
    assert run(os.path.realpath, [OWN_PROCESS] * 2, n_workers=1) == [here] * 2
    assert run(os.path.realpath, [OWN_PROCESS], n_workers=4) == [here]


def test_several_workers_are_other_processes_that_end_with_the_call():
    folders = set(run(os.path.realpath, [OWN_PROCESS] * 3, n_workers=2))
    assert os.path.realpath(OWN_PROCESS) not in folders
    assert not any(map(os.path.exists, folders))


def test_the_usable_cores_are_some():
    assert 1 <= usable_cores() <= os.cpu_count()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_the_first_failure_ends_the_call_with_its_own_error(n_workers):
    with pytest.raises(ValueError, match="invalid literal"):
        run(int, ["1", "x", "3"], n_workers=n_workers)


def test_a_worker_that_dies_is_reported_with_the_work_and_a_hint():
    with pytest.raises(UserError, match=r"^counting: a worker died.*fewer than 2 workers$"):
        run(os._exit, [3, 3], n_workers=2)


def test_the_bar_counts_tasks(capsys):
    run(str.upper, ["a", "b"], n_workers=1, progress=True)
    assert "counting: 100%" in capsys.readouterr().err


MAIN = """
import sys
sys.path.insert(0, {root!r})
from data.processes import run_in_processes
from tell import tell_and_wait
run_in_processes(tell_and_wait, sys.argv[1:], description="waiting", n_workers=2, progress=False)
"""
PRINT = """
import os, time
from pathlib import Path
def tell_and_wait(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep({seconds})
    Path(path).with_suffix(".end").touch()
"""


def start_two_tasks(folder, *, seconds):
    """Start a process whose two workers wait; return it and their ids."""
    (folder / "tell.py").write_text(PRINT.format(seconds=seconds))
    (folder / "main.py").write_text(MAIN.format(root=str(ROOT)))
    files = [folder / "first", folder / "second"]
    parent = subprocess.Popen([sys.executable, "main.py", *files], cwd=folder, stderr=subprocess.PIPE)
    wait_until(lambda: all(path.exists() and path.read_text() for path in files))
    pids = [int(path.read_text()) for path in files]
    assert len({*pids, parent.pid}) == 3
    return parent, pids


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    parent, pids = start_two_tasks(tmp_path, seconds=60)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_an_interrupt_lets_tasks_in_work_finish(tmp_path):
    parent, pids = start_two_tasks(tmp_path, seconds=1)
    parent.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in parent.communicate(timeout=30)[1]
    assert not any(is_alive(pid) for pid in pids)
    assert sorted(path.name for path in tmp_path.glob("*.end")) == ["first.end", "second.end"]


def test_a_second_interrupt_ends_them_at_once(tmp_path):
    parent, pids = start_two_tasks(tmp_path, seconds=60)
    for _ in range(2):
        parent.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert b"KeyboardInterrupt" in parent.communicate(timeout=30)[1]
    assert not any(is_alive(pid) for pid in pids)
    assert not list(tmp_path.glob("*.end"))


def wait_until(condition, max_seconds=30.0):
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < max_seconds
        time.sleep(0.05)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
