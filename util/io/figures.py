"""Use matplotlib independently of the user's settings and display."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_matplotlib() -> Iterator[None]:
    """Draw with matplotlib's default settings in the block, without a display.

    A notebook's MPLBACKEND may name a missing backend, on which the import fails; a user's matplotlibrc, such
    as LaTeX for all text, may change the figures or fail.

    Raises:
        ImportError: matplotlib is not installed, or is damaged.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context(defaults):
        yield
