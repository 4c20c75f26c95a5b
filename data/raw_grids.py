"""The grid of a raw image and where its files lie, as a preparation records them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.raw.raw_scans import RawScan
from util.io.image_io import Geometry
from util.io.nifti_masks import read_header_geometry


@dataclass(frozen=True)
class RawGrid:
    """A raw image's grid.

    Attributes:
        folder: of its files; those of an archive have its path and the folder inside.
        geometry: of the voxels as preparation read them.
        nifti_header: see `read_header_geometry`; None for a DICOM series.
    """

    folder: str
    geometry: Geometry
    nifti_header: Mapping[str, Any] | None

    @classmethod
    def from_scan(cls, scan: RawScan, geometry: Geometry) -> "RawGrid":
        """Describe a raw scan; raises `UserError` if its header cannot be read."""
        header = read_header_geometry(scan.image_files[0]) if len(scan.image_files) == 1 else None
        return cls(str(scan.folder), geometry, header)

    @property
    def path(self) -> Path:
        """The folder of the files."""
        return Path(self.folder)
