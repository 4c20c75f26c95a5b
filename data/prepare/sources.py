"""Open a download: a folder, or an archive that is unpacked temporarily."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from data.custom_spec import DATASET_JSON
from data.raw.raw_scans import RawDataset
from data.raw.unpacking import unpack
from util.errors import UserError
from util.io.files import try_lock


@dataclass(frozen=True)
class Source:
    """A readable download.

    Attributes:
        folder: of its files.
        archive: that they were unpacked from; None for a folder.
    """

    folder: Path
    archive: Path | None = None

    def with_archive_path(self, message: str) -> str:
        """Replace the temporary folder in a message by the archive's path."""
        return message if self.archive is None else message.replace(str(self.folder), str(self.archive))

    def with_archive_folders(self, dataset: RawDataset) -> RawDataset:
        """Add the archive's folders to its scans; a folder's scans are unchanged."""
        if self.archive is None:
            return dataset
        scans = (
            replace(scan, archive_folder=Path(self.with_archive_path(str(scan.folder))))
            for scan in dataset.scans
        )
        return replace(dataset, scans=tuple(scans))


def find_archive(raw: Path) -> Path | None:
    """Return the archive to unpack: any file except a folder's `dataset.json`."""
    return raw if raw.is_file() and raw.name != DATASET_JSON else None


@contextmanager
def open_source(raw: Path, *, beside: Path) -> Iterator[Source]:
    """Open a download; unpacked files are removed at the end, also on failure.

    Args:
        raw: a folder (or the `dataset.json` in it), or a zip file.
        beside: an archive is unpacked into a hidden folder beside this one, or beside its first missing
            parent. Such folders of killed processes are removed.

    Raises:
        UserError: there is no such file or folder, or the archive cannot be unpacked.
    """
    first_missing = beside.absolute()
    while not first_missing.parent.is_dir():
        first_missing = first_missing.parent
    prefix = f".{first_missing.name}.unpacked."
    for leftover in first_missing.parent.glob(f"{glob.escape(prefix)}*"):
        _remove_unless_held(leftover)
    if not raw.exists():
        raise UserError(f"raw={raw}: no such file or folder ({raw.absolute()}); give its path")
    if find_archive(raw) is None:
        yield Source(raw)
        return
    with _temporary_folder(first_missing.parent, prefix) as folder:
        try:
            unpacked = unpack(raw, folder / raw.stem)
        except UserError as error:
            raise UserError(str(error).replace(str(folder), str(raw))) from error
        yield Source(unpacked, raw)


@contextmanager
def _temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        raise UserError(
            f"{parent}: nothing can be unpacked there ({error.strerror}); choose another data_dir, "
            "or unpack the archive yourself and give its folder"
        ) from error
    handle = os.open(folder, os.O_RDONLY)
    try:
        try_lock(handle)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _remove_unless_held(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        if try_lock(handle):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
