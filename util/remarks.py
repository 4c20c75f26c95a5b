"""Remark on an assumption or a loss, wherever in the code it happens."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Remark(UserWarning):
    """Something that a person should know and that stops nothing, in one line."""


def remark(text: str) -> None:
    """Warn of an assumption or a loss; commands print the same text once."""
    warnings.warn(text, Remark, stacklevel=2)


@contextmanager
def printed_remarks() -> Iterator[None]:
    """Print each remark made in the block once, as a line on standard output."""
    printed: set[str] = set()

    def show(text: str) -> None:
        if text not in printed:
            printed.add(text)
            print(f"remark: {text}", flush=True)

    with _shown_by(show):
        yield


@contextmanager
def rewritten_remarks(rewrite: Callable[[str], str]) -> Iterator[None]:
    """Change the texts of the remarks made in the block."""
    show_other = warnings.showwarning
    with _shown_by(lambda text: show_other(Remark(rewrite(text)), Remark, "", 0)):
        yield


def with_remarks(function: Callable[[Argument], Result], argument: Argument) -> tuple[Result, list[str]]:
    """Return a function's result and the remarks made in it, for another process."""
    texts: list[str] = []
    with _shown_by(texts.append):
        return function(argument), texts


@contextmanager
def _shown_by(show_text: Callable[[str], None]) -> Iterator[None]:
    """Hand the texts of remarks to a function, whatever PYTHONWARNINGS says; leave other warnings alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Remark)
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place, **options) -> None:
            if issubclass(category, Remark):
                show_text(str(message))
            else:
                show_other(message, category, *place, **options)

        warnings.showwarning = show
        yield
