"""Configuration keys of dataset folders, preparation and the synthetic scans."""

from pathlib import Path
from typing import Any, Literal

from pydantic import create_model

from data.custom_rules import RawName
from data.datasets import DATASETS, RAW_DATASETS, default_data_dir
from data.layout import DatasetLayout
from data.phantom.scans import PhantomSettings
from data.specs import DatasetSpec
from util.config.path_values import PathText
from util.config.settings import MAX_WHOLE, Count, Settings, Whole, group, key

DATASET_NAME = r"[A-Za-z0-9][A-Za-z0-9_]*"


class PhantomConfig(Settings):
    """The synthetic scans of `dataset=PHANTOM`."""

    n_scans: int = key(20, "number of scans", ge=10, le=MAX_WHOLE)
    image_size_px: int = key(64, "height and width of their slices", ge=48, le=512)
    seed: Whole = key(2025, "random seed of the scans")

    @property
    def settings(self) -> PhantomSettings:
        """Parameters of the scans."""
        return PhantomSettings(image_size_px=self.image_size_px, seed=self.seed)


def _paths(name: str, data_dir: tuple[Any, Any]) -> tuple[type[Settings], Any]:
    """Return type and default of a dataset's group of folders."""
    supervoxel_dir = key(None, "folder of `supervoxels_<n_sv>`; None: the same")
    paths = create_model(
        f"{name}Paths", __base__=Settings, data_dir=data_dir, supervoxel_dir=(PathText | None, supervoxel_dir)
    )
    return paths, group(paths)


# Folders; relative ones start at the current folder. The scripts start at the repository.
PathConfig = create_model(
    "PathConfig",
    __base__=Settings,
    log_dir=(PathText, key("runs", "folder of all runs")),
    **{
        name: _paths(name, (PathText, key(default_data_dir(name), f"folder of the prepared {name} volumes")))
        for name in DATASETS
    },
    OWN=_paths(
        "Own",
        (
            PathText | None,
            key(None, "folder of your own prepared volumes and their `dataset.json`; None: `data/<dataset>`"),
        ),
    ),
)


class PrepareConfig(Settings):
    """Keys of `script/prepare.sh`."""

    dataset: RawName = key(
        ..., f"{', '.join(RAW_DATASETS)}, or the name of your own data", examples=["CHAOST2"]
    )
    raw: PathText = key(
        ..., "the download: a folder, or its zip file", examples=["downloads/CHAOS_Train_Sets.zip"]
    )
    data_dir: PathText | None = key(None, "where the prepared volumes go; None: `data/<dataset>`")
    supervoxel_dir: PathText | None = key(None, "where `supervoxels_<n_sv>` goes; None: the same")
    n_sv: Count | None = key(None, "minimum supervoxel size in voxels; None: the dataset's")
    num_workers: int | None = key(None, "scans processed at once; None: one per core", ge=1, le=256)
    check: bool = key(False, "only check the download; write nothing")
    force: bool = key(False, "rebuild all volumes, and replace foreign files")

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


class RestoreConfig(Settings):
    """Keys of `script/prepare.sh` that restore predictions on the raw grids."""

    dataset: RawName = key(
        ..., f"{', '.join(RAW_DATASETS)}, or the name of your own data", examples=["CHAOST2"]
    )
    back: PathText = key(
        ...,
        "predictions of prepared scans: an evaluation's run folder, or any folder of `scan_<id>` or "
        "`image_<id>` files",
        examples=["runs/CHAOST2/fold_0/evaluation/1"],
    )
    out: PathText | None = key(None, "where they go; None: beside the predictions, with `_original` added")
    kind: Literal["auto", "labels", "continuous"] = key(
        "auto",
        "labels: any label ids, brought back label by label; continuous: any numbers, interpolated linearly; "
        "auto: labels of the dataset, and probabilities",
    )
    data_dir: PathText | None = key(None, "where the prepared volumes are; None: `data/<dataset>`")

    @property
    def folder(self) -> Path:
        """Folder that holds the volumes folder."""
        return Path(self.data_dir or default_data_dir(self.dataset))
