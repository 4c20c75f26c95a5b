"""Write tensor files atomically, and verify their checksums before loading.

PyTorch verifies no checksums, so that a flipped bit would go unnoticed. It loads no code (`weights_only`).
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from util.errors import UserError
from util.io.files import atomic_write


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically.

    Raises `UserError` if the disk is full or not writable; an existing file is unchanged then.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # raised by the zip writer on a full disk
            raise UserError(f"{path}: cannot be written ({first_line(error)}); is the disk full?") from error


def read_tensors(path: Path, *, kind: str, allow_legacy: bool = False) -> Any:
    """Load a file of `write_tensors` on the CPU, without executing code.

    Args:
        path: the file.
        kind: its name in messages, such as "snapshot".
        allow_legacy: read the format of PyTorch before 1.6, too, which has no checksums.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such {kind}")
    if zipfile.is_zipfile(path):
        _check_archive(path, kind=kind)
    elif not allow_legacy:
        raise _damaged(path, kind, "truncated, or older than PyTorch 1.6")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage raises errors of many types
        raise _damaged(path, kind, first_line(error)) from error


def _check_archive(path: Path, *, kind: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names):
                raise ValueError("duplicate members")
            damaged = archive.testzip()
    except Exception as error:  # damage raises errors of many types
        raise _damaged(path, kind, first_line(error)) from error
    if damaged is not None:
        raise _damaged(path, kind, f"the checksum of {damaged} differs")


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's text advises to load it anyway
        return "it holds more than plain tensors"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _damaged(path: Path, kind: str, reason: str) -> UserError:
    return UserError(f"{path}: is damaged or not a {kind} ({reason}); use another {kind}")
