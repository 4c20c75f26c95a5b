"""Tell whether a file is still what it was."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from util.errors import UserError

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileState:
    """A file's content, and the cheap signs that it is unchanged.

    Attributes:
        size_bytes: its length.
        modified_ns: its modification time.
        sha256: hash of its bytes, in hexadecimal.
    """

    size_bytes: int
    modified_ns: int
    sha256: str


def file_state(path: Path) -> FileState:
    """Read a file's state; the whole file is hashed.

    Raises:
        UserError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        status = path.stat()  # first: a change while we read must not get the later time
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return FileState(status.st_size, status.st_mtime_ns, digest.hexdigest())


def confirm_state(known: FileState, path: Path) -> FileState | None:
    """Return the file's present state if its content is the known one, else None.

    Size and modification time decide where they agree with what is known; only where the time alone differs
    (a copied folder) is the file hashed.
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
