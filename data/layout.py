"""Paths of a prepared dataset's files, as in publicly shared data.

`<data_dir>/<volumes>/image_<id>.nii.gz`, `label_<id>.nii.gz`;
`<supervoxel_dir>/supervoxels_<min_size>/superpix-MIDDLE_<id>.nii.gz`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from data.datasets import path_group
from data.specs import DatasetSpec
from util.errors import UserError
from util.io.folders import check_folder


@dataclass(frozen=True)
class DatasetLayout:
    """Paths of one dataset's files.

    Attributes:
        spec: the dataset.
        data_dir: folder that holds the volumes folder.
        supervoxel_dir: folder that holds `supervoxels_<min_size>`; often `data_dir`.
        supervoxel_min_vox: minimum supervoxel size, in voxels; part of the folder's name.
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
        """The folder of supervoxel files of this minimum size."""
        return self.supervoxel_dir / f"supervoxels_{self.supervoxel_min_vox}"

    @property
    def key(self) -> str:
        """The group of configuration keys of these folders."""
        return f"path.{path_group(self.spec.name)}"

    def check_folders(self) -> None:
        """Raise `UserError` if a folder's path is a file or a broken link."""
        for folder in (self.data_dir, self.volumes_dir):
            check_folder(folder, key=f"{self.key}.data_dir")
        for folder in (self.supervoxel_dir, self.supervoxels_dir):
            check_folder(folder, key=f"{self.key}.supervoxel_dir")

    def image_path(self, scan_id: int) -> Path:
        """Return the image file of a scan."""
        return self.volumes_dir / f"image_{scan_id}.nii.gz"

    def label_path(self, scan_id: int) -> Path:
        """Return the label file of a scan."""
        return self.volumes_dir / f"label_{scan_id}.nii.gz"

    def supervoxel_path(self, scan_id: int) -> Path:
        """Return the supervoxel file of a scan."""
        return self.supervoxels_dir / f"superpix-MIDDLE_{scan_id}.nii.gz"

    def scan_ids(self) -> list[int]:
        """List the scans' ids in increasing order.

        Raises:
            UserError: the folder is missing or empty, two files share an id, or an id has leading zeros.
        """
        if not self.volumes_dir.is_dir():
            hint = f"put the prepared {self.spec.name} volumes there or set {self.key}.data_dir"
            if self.data_dir.name == self.spec.volumes_folder:
                hint = f"set {self.key}.data_dir to the folder above, {self.data_dir.parent}"
            raise UserError(f"{self.volumes_dir}: no such folder; {hint}")
        ids = self._ids_of("image")
        if not ids:
            raise UserError(f"{self.volumes_dir}: holds no image_<id>.nii.gz; prepare {self.spec.name} first")
        duplicates = sorted({scan_id for scan_id in ids if ids.count(scan_id) > 1})
        if duplicates:
            raise UserError(f"{self.volumes_dir}: several image files share the id {duplicates[0]}; keep one")
        missing = next((path for path in map(self.image_path, ids) if not path.exists()), None)
        if missing is not None:
            raise UserError(
                f"{missing}: no such file, though the folder holds one of this id; rename it without leading "
                "zeros, or repair the link"
            )
        return ids

    def labelled_ids(self) -> list[int]:
        """List the ids of the label files in increasing order; the folder must exist."""
        return self._ids_of("label")

    def check_labels(self) -> None:
        """Raise `UserError` if a label file has no image, or is a broken link."""
        labelled_ids = self.labelled_ids()
        # A lost image would silently shift all folds.
        unpaired = sorted(set(labelled_ids) - set(self._ids_of("image")))
        if unpaired:
            raise UserError(
                f"{self.label_path(unpaired[0])}: has no image beside it; restore "
                f"{self.image_path(unpaired[0]).name}, or remove the label"
            )
        missing = next((path for path in map(self.label_path, labelled_ids) if not path.exists()), None)
        if missing is not None:
            raise UserError(
                f"{missing}: links to a file that does not exist; mount or restore it, or remove it"
            )

    def _ids_of(self, kind: str) -> list[int]:
        names = (entry.name for entry in self.volumes_dir.iterdir())
        matches = (re.fullmatch(rf"{kind}_(\d+)\.nii\.gz", name) for name in names)
        return sorted(int(match[1]) for match in matches if match)
