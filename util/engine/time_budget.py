"""Limit the share of a training's time that something optional takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TimeBudget:
    """Decide when something is due, such that it takes at most a share of the time.

    Args:
        share: of the time, above 0.
        first_s: assumed duration of the first time.
        clock: returns seconds.
    """

    def __init__(self, share: float, *, first_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._clock = share, clock
        self._next_s = clock() + first_s / share

    def is_due(self) -> bool:
        """Return whether the budget is large enough for another time."""
        return self._clock() >= self._next_s

    @contextmanager
    def charge(self) -> Iterator[None]:
        """Charge the block's duration to the budget, also if it fails."""
        started = self._clock()
        try:
            yield
        finally:
            now = self._clock()
            self._next_s = now + (now - started) / self._share
