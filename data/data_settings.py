"""Configuration keys of dataset folders, preparation and the synthetic scans."""

from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

from data.datasets import DATASETS, RAW_DATASETS, default_data_dir
from data.layout import DatasetLayout
from data.own_rules import own_dataset_name
from data.phantom.scans import PhantomSettings
from data.specs import DatasetSpec
from util.config.settings import Rule, flag, group, key, optional, text, whole

DATASET_NAME = r"[A-Za-z0-9][A-Za-z0-9_]*"


@dataclass(frozen=True)
class PhantomConfig:
    """The synthetic scans of `dataset=PHANTOM`."""

    n_scans: int = key(20, whole(10), "number of scans")
    image_size_px: int = key(64, whole(48, 512), "height and width of their slices")
    seed: int = key(2025, whole(0), "random seed of the scans")

    @property
    def settings(self) -> PhantomSettings:
        """Parameters of the scans."""
        return PhantomSettings(image_size_px=self.image_size_px, seed=self.seed)


def _dataset_paths(name: str) -> type:
    data_dir = key(default_data_dir(name), text(), f"folder of the prepared {name} volumes")
    return _path_keys("DatasetPaths", str, data_dir)


def _path_keys(class_name: str, data_dir_type: Any, data_dir: Any) -> type:
    supervoxel_dir = key(None, optional(text()), "folder of `supervoxels_<n_sv>`; None: the same")
    keys = [("data_dir", data_dir_type, data_dir), ("supervoxel_dir", str | None, supervoxel_dir)]
    return make_dataclass(class_name, keys, frozen=True)


_own_data_dir = "folder of your own prepared volumes and their `dataset.json`; None: `data/<dataset>`"
_OwnPaths = _path_keys("OwnPaths", str | None, key(None, optional(text()), _own_data_dir))

# Folders; relative ones start at the current folder. The scripts start at the repository.
PathConfig = make_dataclass(
    "PathConfig",
    [
        ("log_dir", str, key("runs", text(), "folder of all runs")),
        *((name, Any, group(_dataset_paths(name))) for name in DATASETS),
        ("OWN", Any, group(_OwnPaths)),
    ],
    frozen=True,
)


def _raw_dataset_name() -> Rule:
    """Require a named dataset, or a name that own data may have."""
    own = own_dataset_name()

    def parse(value: Any) -> str:
        return value if value in DATASETS else own.parse(value)

    return Rule(f"{', '.join(RAW_DATASETS)}, or {own.text}", parse)


@dataclass(frozen=True)
class PrepareConfig:
    """Keys of `script/prepare.sh`."""

    dataset: str | None = key(
        None, _raw_dataset_name(), f"{', '.join(RAW_DATASETS)}, or the name of your own data"
    )
    raw: str | None = key(None, text(), "the download: a folder, or its zip file")
    data_dir: str | None = key(
        None, optional(text()), "where the prepared volumes go; None: `data/<dataset>`"
    )
    supervoxel_dir: str | None = key(
        None, optional(text()), "where `supervoxels_<n_sv>` goes; None: the same"
    )
    n_sv: int | None = key(None, optional(whole(1)), "minimum supervoxel size in voxels; None: the dataset's")
    num_workers: int | None = key(
        None, optional(whole(1, 256)), "scans processed at once; None: one per core"
    )
    check: bool = key(False, flag(), "only check the download; write nothing")
    force: bool = key(False, flag(), "rebuild all volumes, and replace foreign files")

    @property
    def folder(self) -> Path:
        """Folder that holds the volumes folder."""
        return Path(self.data_dir or default_data_dir(self.dataset))

    def layout_of(self, spec: DatasetSpec) -> DatasetLayout:
        """Return the paths of the dataset's files."""
        return DatasetLayout(
            spec=spec,
            data_dir=self.folder,
            supervoxel_dir=Path(self.supervoxel_dir or self.folder),
            supervoxel_min_vox=self.n_sv or spec.supervoxel_min_vox,
        )
