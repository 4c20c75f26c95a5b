"""Write pictures, and use matplotlib independently of the user's settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from util.io.files import atomic_write


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


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture `(H, W, 3)`, 0 to 1, as PNG; raises as `atomic_write`."""
    rgb = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    encoded = cv2.imencode(".png", rgb[..., ::-1])[1]
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
