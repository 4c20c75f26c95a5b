"""Configuration keys of where data and results lie, and of the synthetic scans."""

from dataclasses import dataclass
from typing import Any

from util.settings import group, key, optional, text, whole


@dataclass(frozen=True)
class PhantomConfig:
    """The synthetic scans of `dataset=PHANTOM`."""

    n_scans: int = key(20, whole(10), "scans to make")
    image_size_px: int = key(64, whole(48, 512), "height and width of their slices")
    seed: int = key(2025, whole(0), "seed of the scans")


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
class PathConfig:
    """Folders; relative ones start at the current folder.

    The scripts start at the repository.
    """

    log_dir: str = key("runs", text(), "folder of all runs")
    CHAOST2: Any = group(_dataset_paths("CHAOST2"))
    SABS: Any = group(_dataset_paths("SABS"))
    CMR: Any = group(_dataset_paths("CMR"))
    PHANTOM: Any = group(_dataset_paths("PHANTOM"))
