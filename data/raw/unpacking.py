"""Unpack a zip file that may be damaged or malicious."""

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from util.errors import UserError

MAX_BYTES = 64 << 30
MAX_ENTRIES = 200_000
_BLOCK_BYTES = 1 << 20
_ENCRYPTED = 0x1
_KEEP_FREE_BYTES = 64 << 20


def unpack(archive: Path, into: Path, *, max_bytes: int = MAX_BYTES, max_entries: int = MAX_ENTRIES) -> Path:
    """Unpack a zip file atomically into a folder, and return the folder.

    Names, types and sizes are checked in the central directory before anything is written, and sizes again
    while writing, since a directory may be wrong.

    Args:
        archive: the zip file.
        into: the folder to create; must not exist, or be empty.
        max_bytes: maximum of bytes to write, in total.
        max_entries: maximum of files and folders.

    Raises:
        UserError: the archive is missing, not a zip, truncated, damaged or encrypted, holds links, path
            traversal or colliding names, exceeds a maximum or the disk; or `into` is not empty. Nothing is
            left behind.
    """
    archive, into = Path(archive), Path(into)
    if into.exists() and not (into.is_dir() and not any(into.iterdir())):
        raise UserError(f"{into}: must not exist or be empty to unpack {archive.name}; choose another folder")
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; give a folder or a .zip file")
    temporary: Path | None = None
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            _check_directory(archive, entries, max_bytes=max_bytes, max_entries=max_entries)
            into.parent.mkdir(parents=True, exist_ok=True)
            _check_space(archive, entries, into.parent)
            temporary = Path(tempfile.mkdtemp(prefix=f".{into.name}.", suffix=".tmp", dir=into.parent))
            _write(opened, entries, temporary, max_bytes=max_bytes)
        temporary.chmod(0o755)
        os.replace(temporary, into)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
        raise UserError(f"{archive}: must be a whole zip file ({error}); download it again") from error
    except OSError as error:
        raise UserError(
            f"{archive}: cannot be unpacked into {into} ({error.strerror or error}); "
            "free some space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return into


def _check_directory(
    archive: Path, entries: Sequence[zipfile.ZipInfo], *, max_bytes: int, max_entries: int
) -> None:
    if len(entries) > max_entries:
        raise UserError(
            f"{archive}: must hold at most {max_entries} entries, got {len(entries)}; unpack it by hand"
        )
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise UserError(
            f"{archive}: must unpack to at most {max_bytes / 1e9:.3g} GB, its directory claims "
            f"{total / 1e9:.3g} GB; unpack it by hand if you trust it"
        )
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for entry in entries:
        path = _target_path(entry)
        fault = _entry_fault(entry)
        if not fault and (path in files or not files.isdisjoint(path.parents)):
            fault = "collides with another of the same name"
        if not fault and not _is_folder(entry) and path in folders:
            fault = "collides with a folder of the same name"
        if fault:
            raise UserError(
                f"{archive}: entry {entry.filename!r} {fault}; nothing was unpacked, "
                "get the archive from its source again"
            )
        (folders if _is_folder(entry) else files).add(path)
        folders.update(path.parents)


def _entry_fault(entry: zipfile.ZipInfo) -> str | None:
    windows, posix = PureWindowsPath(entry.filename), _target_path(entry)
    if windows.drive or windows.root or posix.is_absolute():
        return "has an absolute name"
    if ".." in posix.parts:
        return "leads out of the folder"
    if not posix.parts or "\0" in entry.filename:
        return "has no name for a file"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is no file and no folder"
    return "is encrypted" if entry.flag_bits & _ENCRYPTED else None


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.endswith(("/", "\\"))


def _target_path(entry: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(entry.filename.replace("\\", "/"))  # some Windows programs write backslashes


def _check_space(archive: Path, entries: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    needed = sum(entry.file_size for entry in entries)
    free = shutil.disk_usage(folder).free - _KEEP_FREE_BYTES
    if needed > free:
        raise UserError(
            f"{archive}: unpacks to {needed / 1e9:.2f} GB, {folder} has {max(free, 0) / 1e9:.2f} GB left; "
            "free some space or choose another folder"
        )


def _write(
    opened: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], folder: Path, *, max_bytes: int
) -> None:
    n_left = max_bytes
    for entry in entries:
        target = folder / _target_path(entry)
        if _is_folder(entry):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as packed, target.open("xb") as file:
            n_left -= _copy(packed, file, max_bytes=n_left)


def _copy(packed: IO[bytes], file: IO[bytes], *, max_bytes: int) -> int:
    """Copy a file block by block; returns the number of its bytes."""
    n_bytes = 0
    while block := packed.read(_BLOCK_BYTES):
        n_bytes += len(block)
        if n_bytes > max_bytes:
            raise zipfile.BadZipFile("it holds more than its directory claims")
        file.write(block)
    return n_bytes
