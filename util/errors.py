"""The exceptions that are no defects, and the codes that programs exit with."""

import signal

EXIT_DEFECT, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130
_EXIT_SIGNALLED = 128  # and the signal's number on top, as shells do


class UserError(Exception):
    """Bad input, told in one line.

    The line says what must hold, what was found and where, and the way out. Entry points print the message
    alone and exit with code 2; every other exception is a defect of ours and keeps its traceback.
    """


class NothingToDo(Exception):
    """What the user asks for is done already; told in one line, and no failure."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop, and it did so in good order.

    Args:
        number: the signal.
        advice: how to go on; None where there is nothing to go on from.

    Attributes:
        number, advice: as given.
    """

    def __init__(self, number: signal.Signals, advice: str | None = None) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = signal.Signals(number)
        self.advice = advice

    @property
    def code(self) -> int:
        """The exit code that says so: 128 and the signal's number."""
        return _EXIT_SIGNALLED + self.number
