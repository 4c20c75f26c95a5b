"""Unpack a downloaded zip file."""

import os
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from util.errors import UserError

_KEEP_FREE_BYTES = 64 << 20


def unpack(archive: Path, into: Path) -> Path:
    """Unpack a zip file atomically into a folder, and return the folder.

    Python's `zipfile` writes nothing outside of the folder, no links, and no more than the archive's
    directory claims; it verifies checksums.

    Args:
        archive: the zip file.
        into: the folder to create; must not exist, or be empty.

    Raises:
        UserError: the archive is missing, not a zip, truncated, damaged or encrypted, holds a name twice, or
            exceeds the disk; or `into` is not empty. Nothing is left behind.
    """
    archive, into = Path(archive), Path(into)
    if into.exists() and not (into.is_dir() and not any(into.iterdir())):
        raise UserError(f"{into}: must not exist or be empty to unpack {archive.name}; choose another folder")
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; give a folder or a .zip file")
    temporary: Path | None = None
    try:
        with zipfile.ZipFile(archive) as opened:
            into.parent.mkdir(parents=True, exist_ok=True)
            _check_names(opened)
            _check_space(opened, into.parent)
            temporary = Path(tempfile.mkdtemp(prefix=f".{into.name}.", suffix=".tmp", dir=into.parent))
            for entry in opened.infolist():
                entry.filename = entry.filename.replace("\\", "/")  # some Windows programs write backslashes
                opened.extract(entry, temporary)
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


def _check_names(opened: zipfile.ZipFile) -> None:
    """Raise if two files have one name, of which unpacking would silently keep the last."""
    names = [entry.filename.replace("\\", "/") for entry in opened.infolist() if not entry.is_dir()]
    for name, n_entries in Counter(names).items():
        if n_entries > 1:
            raise UserError(f"{opened.filename}: holds {name!r} {n_entries} times; download it again")


def _check_space(opened: zipfile.ZipFile, folder: Path) -> None:
    needed = sum(entry.file_size for entry in opened.infolist())
    free = shutil.disk_usage(folder).free - _KEEP_FREE_BYTES
    if needed > free:
        raise UserError(
            f"{opened.filename}: unpacks to {needed / 1e9:.2f} GB, {folder} has {max(free, 0) / 1e9:.2f} GB "
            "left; free some space or choose another folder"
        )
