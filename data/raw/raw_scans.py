"""What a raw download holds, before anything is done to it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from data.own_spec import OwnDataset
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import UserError
from util.io.image_io import Geometry


@dataclass(frozen=True)
class RawScan:
    """One scan's files.

    Attributes:
        scan_id: the id that the prepared volumes carry; unique in its dataset.
        name: what the download calls it, for messages.
        image_files: what the image is read from, in the order of their names.
        label_files: what the label map is read from; empty for a scan without labels.
        orientation: the ends of the patient that its axes (x, y, z) are turned to, such as "LPS"; None leaves
            that to the dataset's preparation.
    """

    scan_id: int
    name: str
    image_files: tuple[Path, ...]
    label_files: tuple[Path, ...]
    orientation: str | None = None


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
        own, own_folder: see `FoundDataset`.
    """

    spec: DatasetSpec
    preparation: Preparation
    scans: tuple[RawScan, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    own: OwnDataset | None
    own_folder: Path | None

    def inspect(self, scan: RawScan) -> Inspection:
        """Read one scan and list everything that is wrong with it, one line each."""

    def preparation_of(self, scan: RawScan) -> Preparation:
        """Return what is done to one scan, its own orientation included."""

    def read(self, scan: RawScan) -> RawVolume:
        """Read and check one scan; raises `UserError` in one line that names the file."""


@dataclass(frozen=True)
class FoundDataset:
    """The `RawDataset` of every form; how a scan is read sets the forms apart.

    Attributes:
        spec, preparation, scans, problems, remarks: see `RawDataset`.
        inspect_scan: reads and checks one scan; picklable, since other processes call it.
        own: what the `dataset.json` of own data says; None for a published dataset.
        own_folder: the folder that holds it.
    """

    spec: DatasetSpec
    preparation: Preparation
    scans: tuple[RawScan, ...]
    inspect_scan: Callable[[RawScan, DatasetSpec], Inspection]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    own: OwnDataset | None = None
    own_folder: Path | None = None

    def inspect(self, scan: RawScan) -> Inspection:
        """Read one scan and list everything that is wrong with it, one line each."""
        return self.inspect_scan(scan, self.spec)

    def preparation_of(self, scan: RawScan) -> Preparation:
        """Return what is done to one scan, its own orientation included."""
        return (
            self.preparation
            if scan.orientation is None
            else replace(self.preparation, orientation=scan.orientation)
        )

    def read(self, scan: RawScan) -> RawVolume:
        """Read one scan.

        Raises:
            UserError: something is wrong with it; the first line of `inspect`.
        """
        volume, problems = self.inspect(scan)
        if problems:
            raise UserError(problems[0])
        return volume
