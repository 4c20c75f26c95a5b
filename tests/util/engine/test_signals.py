"""Signals stop a program at once, or when it looks at the wish they leave."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from util.config.command_line import run_guarded
from util.engine.signals import SIGNALS, StopRequests
from util.errors import Stopped


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_a_signal_ends_the_block_at_once_with_its_code(number, code, capsys):
    def work():
        with StopRequests():
            os.kill(os.getpid(), getattr(signal, number))
            raise AssertionError("went on")

    assert run_guarded(work) == code
    assert capsys.readouterr().err == f"stopped by {number}\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deferred_signal_leaves_a_wish_and_the_block_goes_on(number):
    with StopRequests() as stops:
        stops.defer()
        assert stops.wish is None
        os.kill(os.getpid(), number)
        assert stops.wish == number


def test_the_first_of_several_deferred_signals_counts():
    with StopRequests() as stops:
        stops.defer()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.wish == signal.SIGUSR1


def test_a_second_interrupt_does_not_wait_any_more():
    with StopRequests() as stops:
        stops.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped by SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_way_on_is_told_with_the_stop(capsys):
    def work():
        raise Stopped(signal.SIGTERM, "go on with resume=latest")

    assert run_guarded(work) == 143
    assert capsys.readouterr().err == "stopped by SIGTERM; go on with resume=latest\n"


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="out"), StopRequests():
        raise ValueError("out")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def work():
        with StopRequests() as stops:
            seen.append((stops.wish, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_a_process_that_waits_in_a_library_stops_as_well():
    program = (
        "import time, sys\nfrom util.engine.signals import StopRequests\n"
        "from util.config.command_line import run_guarded\n"
        "def work():\n    with StopRequests():\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "sys.exit(run_guarded(work))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=60)
    assert (child.returncode, told) == (143, "stopped by SIGTERM\n")


def _items(number):
    yield 1
    os.kill(os.getpid(), number)
    raise AssertionError("waited on")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_wait_for_the_next_item(number):
    with StopRequests() as stops:
        assert list(stops.interruptible(_items(number))) == [1, None]
        assert stops.wish == number


def test_a_signal_during_the_work_on_an_item_leaves_a_wish():
    with StopRequests() as stops:
        seen = []
        for item in stops.interruptible([1, 2, 3]):
            seen.append(item)
            if item == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [1, 2, 3]
        assert stops.wish == signal.SIGTERM
