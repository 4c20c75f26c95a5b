"""Warnings about assumptions and data loss, printed once per command."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Remark(UserWarning):
    """Something the user should know that stops nothing, in one line."""


def remark(text: str) -> None:
    """Warn about an assumption or a loss; commands print the same text once."""
    warnings.warn(text, Remark, stacklevel=2)


@contextmanager
def printed_remarks() -> Iterator[None]:
    """Print each remark made in the block once, on standard output."""
    printed: set[str] = set()

    def show(text: str) -> None:
        if text not in printed:
            printed.add(text)
            print(f"remark: {text}", flush=True)

    with _shown_by(show):
        yield


@contextmanager
def rewritten_remarks(rewrite: Callable[[str], str]) -> Iterator[None]:
    """Rewrite the texts of the remarks made in the block."""
    show_other = warnings.showwarning
    with _shown_by(lambda text: show_other(Remark(rewrite(text)), Remark, "", 0)):
        yield


def with_remarks(function: Callable[[Argument], Result], argument: Argument) -> tuple[Result, list[str]]:
    """Return a function's result and the remarks it made, for another process."""
    texts: list[str] = []
    with _shown_by(texts.append):
        return function(argument), texts


@contextmanager
def _shown_by(show_text: Callable[[str], None]) -> Iterator[None]:
    """Pass remarks to a function, regardless of PYTHONWARNINGS; other warnings are unchanged."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Remark)
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *location, **options) -> None:
            if issubclass(category, Remark):
                show_text(str(message))
            else:
                show_other(message, category, *location, **options)

        warnings.showwarning = show
        yield
