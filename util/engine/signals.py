"""Handle stop signals at safe points of a program."""

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import TypeVar

from util.errors import Stopped

Item = TypeVar("Item")
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # Windows has no SIGUSR1


class SignalHandler:
    """Context manager that handles SIGINT, SIGTERM and SIGUSR1.

    Initially each of them raises `Stopped` in the block, as Ctrl-C does. After `defer` they only set
    `pending_signal`, which the block must check; a second Ctrl-C still raises. Outside the main thread, where
    Python delivers no signals, nothing is changed.

    Attributes:
        pending_signal: the first deferred signal; None if there was none.
    """

    def __init__(self) -> None:
        self.pending_signal: signal.Signals | None = None
        self._is_deferring = False
        self._previous_handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def defer(self) -> None:
        """Set `pending_signal` from now on instead of raising."""
        self._is_deferring = True

    def interruptible(self, items: Iterable[Item]) -> Iterator[Item | None]:
        """Yield items, letting a signal interrupt the wait for the next one.

        A signal that arrives while the block processes an item is deferred.

        Yields:
            The items; a final None if a signal interrupted the wait.
        """
        iterator = iter(items)
        while True:
            self._is_deferring = False
            try:
                item = next(iterator)
            except StopIteration:
                return
            except Stopped as stopped:
                self.pending_signal = stopped.number
                yield None
                return
            finally:
                self._is_deferring = True
            yield item

    def _receive(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if not self._is_deferring or (self.pending_signal is not None and received == signal.SIGINT):
            raise Stopped(received)
        if self.pending_signal is None:
            self.pending_signal = received
