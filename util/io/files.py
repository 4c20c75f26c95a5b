"""Write files so that a reader never sees half of one."""

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
except ImportError:  # Windows: leftovers stay, and nothing else is lost
    fcntl = None

_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"}
_IDLE_S = 600.0  # whoever writes a file touches it more often than that
# What `replaced_file` calls its temporary files; the eight characters are tempfile's.
_TEMPORARY_NAME = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp(\..+)?")


@contextmanager
def replaced_file(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes its place if the block succeeds.

    The file is synced before it is renamed, so that `path` holds the old content or the new, never a part,
    and its folder after that, so that a file once written is there after the machine fails.

    Args:
        path: the file to write; its folder is made if missing.
        suffix: ending of the temporary name, for writers that choose a format by it (such as ".nii.gz").

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
        try_lock(handle)  # until it is closed; tells `remove_leftovers` that somebody is at work
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
    # Some network file systems refuse, and Windows cannot open a folder: the file is whole all the same.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` in one step.

    See `replaced_file` for what is raised.
    """
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_file(path: Path) -> None:
    """Remove a file, if it is there; raises `UserError` where that is not allowed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be removed ({error.strerror or error}); make its folder writable"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder.

    Those that another process is writing are kept, and all of them where the file system knows no locks. On
    network file systems, whose locks may hold on one machine alone, fresh ones are kept, too.
    """
    idle_s = 0.0 if _is_local(folder) else _IDLE_S
    entries = folder.iterdir() if folder.is_dir() else ()
    for path in [entry for entry in entries if _TEMPORARY_NAME.fullmatch(entry.name)]:
        with suppress(OSError), path.open("r+b") as file:
            if try_lock(file.fileno()) and time.time() - path.stat().st_mtime >= idle_s:
                path.unlink()


def _is_local(folder: Path) -> bool:
    """Tell whether a folder is certainly on a disk of this machine."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        return False
    place, found = folder.resolve(), {}
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = Path(before.split()[4].replace("\\040", " "))
        if place.is_relative_to(mounted):
            found[len(mounted.parts)] = after.split()[0]  # of two mounts in one place the later one counts
    return bool(found) and found[max(found)] in _LOCAL


def try_lock(handle: int) -> bool | None:
    """Lock an open file or folder until it is closed.

    A killed process closes all it has.

    Returns:
        True, or False where another process holds the lock; None where the file system knows no locks.
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
