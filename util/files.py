"""Write files so that a reader never sees half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from util.errors import UserError


@contextmanager
def replaced_file(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes its place if the block succeeds.

    The file is synced before it is renamed, so that `path` holds the old content or the new, never a part.

    Args:
        path: the file to write; its folder is made if missing.
        suffix: ending of the temporary name, for writers that choose a format by it (such as ".nii.gz").

    Raises:
        UserError: the disk is full or the folder cannot be written; the previous file is untouched.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{suffix}", dir=path.parent)
        temporary = Path(name)
        os.close(handle)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` in one step.

    See `replaced_file` for what is raised.
    """
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def make_folder(folder: Path, *, key: str) -> Path:
    """Make a folder where it is missing, and return it.

    Raises `UserError`, which names the configuration's `key`, where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{key}: {folder} cannot be made ({error.strerror}); choose another folder"
        ) from error
    return folder
