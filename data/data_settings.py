"""Configuration keys of folders and of the synthetic scans."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.layout import DatasetLayout
from data.own_rules import dataset_name
from data.phantom.scans import PhantomSettings
from data.specs import DATASETS, DatasetSpec
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
        """What the scans depend on, beside their ids."""
        return PhantomSettings(image_size_px=self.image_size_px, seed=self.seed)


def _dataset_paths(name: str) -> type:
    @dataclass(frozen=True)
    class DatasetPaths:
        """Where one dataset lies."""

        data_dir: str = key(f"data/{name}", text(), f"folder of the prepared {name} volumes")
        supervoxel_dir: str | None = key(
            None, optional(text()), "folder of `supervoxels_<n_sv>`; None: the same"
        )

    return DatasetPaths


@dataclass(frozen=True)
class _OwnPaths:
    """Where own data lie."""

    data_dir: str | None = key(
        None,
        optional(text()),
        "folder of your own prepared volumes and their `dataset.json`; None: `data/<dataset>`",
    )
    supervoxel_dir: str | None = key(None, optional(text()), "folder of `supervoxels_<n_sv>`; None: the same")


@dataclass(frozen=True)
class PathConfig:
    """Folders; relative ones start at the current folder.

    The scripts start at the repository.
    """

    log_dir: str = key("runs", text(), "folder of all runs")
    CHAOST2: Any = group(_dataset_paths("CHAOST2"))
    SABS: Any = group(_dataset_paths("SABS"))
    CMR: Any = group(_dataset_paths("CMR"))
    PHANTOM: Any = group(_dataset_paths("PHANTOM"))
    OWN: Any = group(_OwnPaths)


def _raw_dataset_name() -> Rule:
    """Ask for a published dataset's name, or one that own data may have."""
    own = dataset_name()

    def parse(value: Any) -> str:
        return value if value in DATASETS else own.parse(value)

    return Rule(f"CHAOST2, SABS, CMR, or {own.text}", parse)


@dataclass(frozen=True)
class PrepareConfig:
    """What `script/prepare.sh` does."""

    dataset: str | None = key(
        None,
        _raw_dataset_name(),
        "CHAOST2, SABS, CMR, or the name of your own data",
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
    force: bool = key(False, flag(), "make all volumes anew, and replace what others made")

    @property
    def folder(self) -> Path:
        """The folder that holds the volumes folder."""
        return Path(self.data_dir or f"data/{self.dataset}")

    def volumes_dir_of(self, spec: DatasetSpec) -> Path:
        """Return the folder that the dataset's volumes go to."""
        return self.folder / spec.volumes_folder

    def layout_of(self, spec: DatasetSpec) -> DatasetLayout:
        """Tell where the dataset's files go."""
        return DatasetLayout(
            spec=spec,
            data_dir=self.folder,
            supervoxel_dir=Path(self.supervoxel_dir or self.folder),
            supervoxel_min_vox=self.n_sv or spec.supervoxel_min_vox,
        )
