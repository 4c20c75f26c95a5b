"""Raw scans and datasets, as found in a download."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.specs import CustomDataset, DatasetSpec
from data.transforms import Preparation
from util.errors import UserError
from util.io.image_io import Geometry


@dataclass(frozen=True)
class RawScan:
    """One scan's files.

    Attributes:
        scan_id: id of the prepared volumes; unique in its dataset.
        name: in the download, for messages.
        image_files: files of the image, ordered by name.
        label_files: files of the label map; empty for a scan without labels.
        orientation: target orientation of its axes (x, y, z), such as "LPS"; None: the dataset's.
        archive_folder: folder of the images as a path in the archive that they were unpacked from; None if
            they were not.
    """

    scan_id: int
    name: str
    image_files: tuple[Path, ...]
    label_files: tuple[Path, ...]
    orientation: str | None = None
    archive_folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The absolute folder of the image files, or their `archive_folder`."""
        return (self.archive_folder or self.image_files[0].parent).absolute()


@dataclass(frozen=True)
class RawVolume:
    """One scan's voxels.

    Attributes:
        image: `(Z, H, W)` float32 or an integer type.
        label_map: `(Z, H, W)` uint8 label ids of the dataset; None for a scan without labels.
        geometry: of both.
    """

    image: np.ndarray
    label_map: np.ndarray | None
    geometry: Geometry


Inspection = tuple[RawVolume | None, list[str]]  # the volume, None if unusable, and all problems


@dataclass(frozen=True)
class RawDataset:
    """A download of one dataset that was found on disk.

    Attributes:
        spec: the dataset.
        preparation: from raw to prepared volumes.
        scans: all of them, ordered by id.
        inspect_scan: reads and checks one scan; picklable, since worker processes call it.
        problems: faults of the files as a whole, one line each; empty if there are none.
        remarks: what the user should know but need not fix, one line each.
        custom: content of a custom dataset's `dataset.json`; None for a named dataset.
        custom_folder: the folder of that file.
    """

    spec: DatasetSpec
    preparation: Preparation
    scans: tuple[RawScan, ...]
    inspect_scan: Callable[[RawScan, DatasetSpec], Inspection]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    custom: CustomDataset | None = None
    custom_folder: Path | None = None

    def inspect(self, scan: RawScan) -> Inspection:
        """Read one scan and list all its problems, one line each."""
        return self.inspect_scan(scan, self.spec)

    def preparation_of(self, scan: RawScan) -> Preparation:
        """Return the preparation of one scan, including its own orientation."""
        if scan.orientation is None:
            return self.preparation
        return replace(self.preparation, orientation=scan.orientation)

    def read(self, scan: RawScan) -> RawVolume:
        """Read one scan; raises the first problem that `inspect` lists as `UserError`."""
        volume, problems = self.inspect(scan)
        if problems:
            raise UserError(problems[0])
        return volume
