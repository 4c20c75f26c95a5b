"""Let signals stop a program where nothing is lost."""

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


class StopRequests:
    """Hears SIGINT, SIGTERM and SIGUSR1 while it is entered.

    At first each of them ends the block by `Stopped`, as Ctrl-C would. After `defer` they only leave a wish,
    which the block must look at; a second Ctrl-C ends it all the same. Outside the main thread, where Python
    hears no signals, it changes nothing.

    Attributes:
        wish: the first deferred signal; None while there is none.
    """

    def __init__(self) -> None:
        self.wish: signal.Signals | None = None
        self._deferring = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def defer(self) -> None:
        """Leave it to the block when to stop."""
        self._deferring = True

    def interruptible(self, items: Iterable[Item]) -> Iterator[Item | None]:
        """Yield items, and let a signal end the wait for the next one.

        A signal that comes while the block works on an item leaves a wish, as after `defer`.

        Yields:
            The items; None as the last one where a signal ended the wait.
        """
        iterator = iter(items)
        while True:
            self._deferring = False
            try:
                item = next(iterator)
            except StopIteration:
                return
            except Stopped as stopped:
                self.wish = stopped.number
                yield None
                return
            finally:
                self._deferring = True
            yield item

    def _receive(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if not self._deferring or (self.wish is not None and received == signal.SIGINT):
            raise Stopped(received)
        if self.wish is None:
            self.wish = received
