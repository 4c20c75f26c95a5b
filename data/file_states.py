"""Detect whether a file has changed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from util.errors import UserError

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileState:
    """A file's size, modification time and hash (hexadecimal)."""

    size_bytes: int
    modified_ns: int
    sha256: str


def file_state(path: Path) -> FileState:
    """Hash a file; raises `UserError` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        status = path.stat()  # first: a change during reading must not get the later time
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return FileState(status.st_size, status.st_mtime_ns, digest.hexdigest())


def confirm_state(known: FileState, path: Path) -> FileState | None:
    """Return the file's present state if its content is the known one, else None.

    The file is hashed only if its size is the known one but its time differs (a copied folder).
    """
    try:
        status = path.stat()
    except OSError:
        return None
    if status.st_size != known.size_bytes:
        return None
    if status.st_mtime_ns == known.modified_ns:
        return known
    present = file_state(path)
    return present if present.sha256 == known.sha256 else None
