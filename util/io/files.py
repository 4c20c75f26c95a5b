"""Write files atomically, and remove what killed processes left."""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from util.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: leftovers are not removed
    fcntl = None

_LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"}
_MIN_IDLE_S = 600.0  # a file being written is touched more often than that
# Temporary files of `atomic_write`; the eight characters are tempfile's.
_TEMPORARY_NAME = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp(\..+)?")


@contextmanager
def atomic_write(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds.

    The file is synced before the rename, so that `path` holds the old or the new content, never a part; its
    folder is synced afterwards, so that a written file survives a crash of the machine.

    Args:
        path: the file to write; its folder is created if missing.
        suffix: of the temporary name, for writers that choose a format by it (such as ".nii.gz").

    Raises:
        UserError: the disk is full or the folder cannot be written; the previous file is untouched.
    """
    path = Path(path)
    temporary: Path | None = None
    handle: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{suffix}", dir=path.parent)
        temporary = Path(name)
        try_lock(handle)  # until it is closed; keeps `remove_leftovers` from removing it
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _sync_folder(folder: Path) -> None:
    # Some network file systems refuse, and Windows cannot open a folder; the file is complete anyway.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically; raises as `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_file(path: Path) -> None:
    """Remove a file if it exists; raises `UserError` if that fails."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be removed ({error.strerror or error}); make its folder writable"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder.

    Files that another process is writing are kept, and so are all on file systems without locks. On network
    file systems, where a lock may be valid on one machine only, recent files are kept, too.
    """
    idle_s = 0.0 if _is_local(folder) else _MIN_IDLE_S
    entries = folder.iterdir() if folder.is_dir() else ()
    for path in [entry for entry in entries if _TEMPORARY_NAME.fullmatch(entry.name)]:
        with suppress(OSError), path.open("r+b") as file:
            if try_lock(file.fileno()) and time.time() - path.stat().st_mtime >= idle_s:
                path.unlink()


def _is_local(folder: Path) -> bool:
    """Return whether a folder is certainly on a local disk."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return False
    folder, type_at_depth = folder.resolve(), {}
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = Path(before.split()[4].replace("\\040", " "))
        if folder.is_relative_to(mounted):
            type_at_depth[len(mounted.parts)] = after.split()[0]  # a later mount hides an earlier one
    return bool(type_at_depth) and type_at_depth[max(type_at_depth)] in _LOCAL_FILE_SYSTEMS


def try_lock(handle: int) -> bool | None:
    """Lock an open file or folder until it is closed or the process ends.

    Returns:
        True, or False if another process holds the lock; None if the file system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def make_folder(folder: Path, *, key: str) -> Path:
    """Create a folder if missing, and return it; errors name the configuration `key`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{key}: {folder} cannot be created ({error.strerror}); choose another folder"
        ) from error
    return folder
