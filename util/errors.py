"""Exceptions for expected failures, and exit codes."""

import signal
from collections.abc import Callable, Iterable
from typing import TypeVar

Value = TypeVar("Value")

# EXIT_PARTIAL: some of the requested results were made, the others could not be.
EXIT_DEFECT, EXIT_USER_ERROR, EXIT_PARTIAL, EXIT_INTERRUPTED = 1, 2, 3, 130
_MAX_LISTED = 5
_EXIT_SIGNALLED = 128  # plus the signal's number, as in shells


class UserError(Exception):
    """Invalid input, described in one line.

    The message says what must hold, what was found where, and how to fix it. Entry points print it without a
    traceback and exit with code 2; any other exception is a bug and keeps its traceback.
    """


class NothingToDo(Exception):
    """The requested work is already done; one line, exit code 0."""


class Stopped(KeyboardInterrupt):
    """The program stopped in good order after a signal.

    Args:
        number: the signal.
        hint: how to resume; None if there is nothing to resume.

    Attributes:
        number, hint: as passed.
    """

    def __init__(self, number: signal.Signals, hint: str | None = None) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = signal.Signals(number)
        self.hint = hint

    @property
    def code(self) -> int:
        """Exit code: 128 plus the signal's number."""
        return _EXIT_SIGNALLED + self.number


class ProblemList:
    """Collect the problems of several checks, to report all of them at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, check: Callable[[], Value]) -> Value | None:
        """Return a check's result, or note its `UserError` and return None."""
        try:
            return check()
        except UserError as error:
            self.lines += str(error).splitlines()
            return None

    def raise_all(self) -> None:
        """Raise a `UserError` of one line per problem, if there are any."""
        if self.lines:
            raise UserError("\n".join(self.lines))


def shorten_list(values: Iterable[object], *, n_max: int = _MAX_LISTED, separator: str = ", ") -> str:
    """Join values for a message, and count those beyond `n_max`."""
    texts = list(map(str, values))
    n_more = len(texts) - n_max
    return separator.join(texts[:n_max]) + (f" and {n_more} more" if n_more > 0 else "")
