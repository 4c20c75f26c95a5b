"""Write a training's metrics and pictures for TensorBoard, an optional package."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from util.engine.training_state import Log
from util.errors import UserError


def check_tensorboard() -> None:
    """Raise `UserError` if the tensorboard package is not installed."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "tensorboard=True: the package tensorboard is not installed; run pip install tensorboard in the "
            "environment, or leave tensorboard out"
        )


class TensorBoardLog:
    """Log metrics to TensorBoard's event files, in addition to another log.

    If files cannot be written, one warning is printed and the training continues.

    Args:
        folder: of the event files.
        log: takes every metric, too.
        warn: prints a line.

    Raises:
        UserError: the package is missing, or the folder cannot be written.
    """

    def __init__(self, folder: Path, log: Log, *, warn: Callable[[str], object] = print) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter  # late: it imports the optional package

        self._log, self._warn = log, warn
        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror or error}); free some space"
            ) from error

    def __call__(self, name: str, value: float, step: int) -> None:
        """Log the value of a metric after a step."""
        self._log(name, value, step)
        self._write(lambda writer: writer.add_scalar(name, value, step))

    def add_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Log a picture `(H, W, 3)`, 0 to 1."""
        self._write(lambda writer: writer.add_image(name, picture, step, dataformats="HWC"))

    def close(self) -> None:
        """Flush and close the event files."""
        self._write(lambda writer: writer.close())
        self._writer = None

    def _write(self, write: Callable) -> None:
        if self._writer is None:
            return
        try:
            write(self._writer)
        except OSError as error:
            self._writer = None
            self._warn(f"warning: TensorBoard's files are not written any more ({error.strerror or error})")
