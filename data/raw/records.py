"""What a raw download holds, before anything is done to it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import UserError
from util.image_io import Geometry


@dataclass(frozen=True)
class RawScan:
    """One scan's files.

    Attributes:
        scan_id: the id that the prepared volumes carry; unique in its dataset.
        name: what the download calls it, for messages.
        image_files: what the image is read from, in the order of their names.
        label_files: what the label map is read from; empty for a scan without labels.
    """

    scan_id: int
    name: str
    image_files: tuple[Path, ...]
    label_files: tuple[Path, ...]


@dataclass(frozen=True)
class RawVolume:
    """One scan's voxels.

    Attributes:
        image: `(Z, H, W)` float32 or an integer type.
        label_map: `(Z, H, W)` uint8, with the dataset's own label ids; None for a scan without labels.
        geometry: of both.
    """

    image: np.ndarray
    label_map: np.ndarray | None
    geometry: Geometry


Inspection = tuple[RawVolume | None, list[str]]  # what was read, None if nothing could be, and all problems


class RawDataset(Protocol):
    """A download of one dataset that was found on disk.

    Attributes:
        spec: the dataset.
        preparation: what is done to its volumes.
        scans: all of them, in the order of their ids.
        problems: what is wrong with the files as a whole, one line each; empty if nothing is.
        remarks: what a person should know and nobody needs to mend, one line each.
    """

    spec: DatasetSpec
    preparation: Preparation
    scans: tuple[RawScan, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    def inspect(self, scan: RawScan) -> Inspection:
        """Read one scan and list everything that is wrong with it, one line each."""

    def read(self, scan: RawScan) -> RawVolume:
        """Read and check one scan; raises `UserError` in one line that names the file."""


@dataclass(frozen=True)
class FoundDataset:
    """The `RawDataset` of every form; how a scan is read sets the forms apart.

    Attributes:
        spec, preparation, scans, problems, remarks: see `RawDataset`.
        inspect_scan: reads and checks one scan; picklable, since other processes call it.
    """

    spec: DatasetSpec
    preparation: Preparation
    scans: tuple[RawScan, ...]
    inspect_scan: Callable[[RawScan, DatasetSpec], Inspection]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def inspect(self, scan: RawScan) -> Inspection:
        """Read one scan and list everything that is wrong with it, one line each."""
        return self.inspect_scan(scan, self.spec)

    def read(self, scan: RawScan) -> RawVolume:
        """Read one scan.

        Raises:
            UserError: something is wrong with it; the first line of `inspect`.
        """
        volume, problems = self.inspect(scan)
        if problems:
            raise UserError(problems[0])
        return volume
