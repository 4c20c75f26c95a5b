"""Signals stop a program at once, or are deferred until it checks for them."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from util.config.command_line import run_guarded
from util.engine.signals import SIGNALS, SignalHandler
from util.errors import Stopped


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_a_signal_interrupts_the_block_with_its_exit_code(number, code, capsys):
    def work():
        with SignalHandler():
            os.kill(os.getpid(), getattr(signal, number))
            raise AssertionError("not interrupted")

    assert run_guarded(work) == code
    assert capsys.readouterr().err == f"stopped by {number}\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deferred_signal_is_pending_and_the_block_continues(number):
    with SignalHandler() as signals:
        signals.defer()
        assert signals.pending_signal is None
        os.kill(os.getpid(), number)
        assert signals.pending_signal == number


def test_the_first_of_several_deferred_signals_counts():
    with SignalHandler() as signals:
        signals.defer()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.pending_signal == signal.SIGUSR1


def test_a_second_interrupt_is_not_deferred():
    with SignalHandler() as signals:
        signals.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped by SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_hint_is_printed_with_the_stop(capsys):
    def work():
        raise Stopped(signal.SIGTERM, "resume with resume=latest")

    assert run_guarded(work) == 143
    assert capsys.readouterr().err == "stopped by SIGTERM; resume with resume=latest\n"


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="out"), SignalHandler():
        raise ValueError("out")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def work():
        with SignalHandler() as signals:
            seen.append((signals.pending_signal, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_a_signal_interrupts_a_blocking_call():
    program = (
        "import time, sys\nfrom util.engine.signals import SignalHandler\n"
        "from util.config.command_line import run_guarded\n"
        "def work():\n    with SignalHandler():\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "sys.exit(run_guarded(work))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=60)
    assert (child.returncode, stderr) == (143, "stopped by SIGTERM\n")


def _items(number):
    yield 1
    os.kill(os.getpid(), number)
    raise AssertionError("kept waiting")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_wait_for_the_next_item(number):
    with SignalHandler() as signals:
        assert list(signals.interruptible(_items(number))) == [1, None]
        assert signals.pending_signal == number


def test_a_signal_during_the_work_on_an_item_is_deferred():
    with SignalHandler() as signals:
        seen = []
        for item in signals.interruptible([1, 2, 3]):
            seen.append(item)
            if item == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [1, 2, 3]
        assert signals.pending_signal == signal.SIGTERM
