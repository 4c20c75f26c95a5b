"""Where the files of a prepared dataset lie.

`<data_dir>/<volumes>/image_<id>.nii.gz`, `label_<id>.nii.gz`;
`<supervoxel_dir>/supervoxels_<min_size>/superpix-MIDDLE_<id>.nii.gz`. Others' prepared data
drops in unchanged.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from data.specs import DATASETS, DatasetSpec
from util.errors import UserError


@dataclass(frozen=True)
class DatasetLayout:
    """Paths of one dataset's files.

    Attributes:
        spec: the dataset.
        data_dir: folder that holds the volumes folder.
        supervoxel_dir: folder that holds `supervoxels_<min_size>`; often `data_dir`.
        supervoxel_min_vox: least supervoxel size, in voxels; part of the folder's name.
    """

    spec: DatasetSpec
    data_dir: Path
    supervoxel_dir: Path
    supervoxel_min_vox: int

    @property
    def volumes_dir(self) -> Path:
        """The folder of images and labels."""
        return self.data_dir / self.spec.volumes_folder

    @property
    def supervoxels_dir(self) -> Path:
        """The folder of supervoxel files of this least size."""
        return self.supervoxel_dir / f"supervoxels_{self.supervoxel_min_vox}"

    def image_path(self, scan_id: int) -> Path:
        """The image file of a scan."""
        return self.volumes_dir / f"image_{scan_id}.nii.gz"

    def label_path(self, scan_id: int) -> Path:
        """The label file of a scan."""
        return self.volumes_dir / f"label_{scan_id}.nii.gz"

    def supervoxel_path(self, scan_id: int) -> Path:
        """The supervoxel file of a scan."""
        return self.supervoxels_dir / f"superpix-MIDDLE_{scan_id}.nii.gz"

    def scan_ids(self) -> list[int]:
        """List the scans' ids in increasing order.

        Raises:
            UserError: the folder is missing, holds no image, or two files share an id.
        """
        if not self.volumes_dir.is_dir():
            raise UserError(
                f"{self.volumes_dir}: no such folder; put the prepared {self.spec.name} volumes there "
                f"or set path.{self.spec.name if self.spec.name in DATASETS else 'OWN'}.data_dir"
            )
        matches = (re.fullmatch(r"image_(\d+)\.nii\.gz", entry.name) for entry in self.volumes_dir.iterdir())
        ids = sorted(int(match[1]) for match in matches if match)
        if not ids:
            raise UserError(f"{self.volumes_dir}: holds no image_<id>.nii.gz; prepare {self.spec.name} first")
        duplicates = sorted({scan_id for scan_id in ids if ids.count(scan_id) > 1})
        if duplicates:
            raise UserError(f"{self.volumes_dir}: several image files share the id {duplicates[0]}; keep one")
        return ids
