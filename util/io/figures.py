"""Import matplotlib so that figures look the same whatever the surroundings say."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_matplotlib() -> Iterator[None]:
    """Let the block draw with matplotlib's own defaults, and without a display.

    MPLBACKEND of a notebook names a backend that is not installed here, and would end the import; settings of
    a user's matplotlibrc, such as LaTeX for all text, would change or end the drawing.

    Raises:
        ImportError: matplotlib is not installed, or damaged.
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
