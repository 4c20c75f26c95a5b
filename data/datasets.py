"""Registry of the named datasets, one record each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.raw.chaos import find_chaos
from data.raw.mscmrseg import find_mscmrseg
from data.raw.raw_scans import RawDataset
from data.raw.synapse import find_synapse
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import UserError


@dataclass(frozen=True)
class NamedDataset:
    """A dataset that the configuration knows by name.

    Attributes:
        spec: labels, raw ids, organ groups and supervoxel size.
        preparation: from raw to prepared volumes; None for synthetic scans.
        find_scans: finds the raw scans below a folder; None for synthetic scans.
        inner_folders: lower-case names of folders inside a download; the path of one stands for the download.
        config_defaults: configuration defaults that differ from the general ones.
        recipe: the scripts' default recipe for this dataset.
    """

    spec: DatasetSpec
    preparation: Preparation | None = None
    find_scans: Callable[[Path, DatasetSpec, Preparation], RawDataset] | None = None
    inner_folders: tuple[str, ...] = ()
    config_defaults: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "published"


_ABDOMEN_MR = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}

DATASETS = {
    dataset.spec.name: dataset
    for dataset in (
        NamedDataset(
            spec=DatasetSpec(
                name="CHAOST2",
                volumes_folder="chaos_MR_T2_normalized",
                labels=_ABDOMEN_MR,
                test_labels=(1, 2, 3, 4),
                organ_groups=((1, 4), (2, 3)),
                supervoxel_min_vox=5000,
            ),
            preparation=Preparation(
                orientation="LPS", clip_percentile=99.5, spacing_mm=(7.70, 1.25, 1.25), size_px=(256, 256)
            ),
            find_scans=find_chaos,
            inner_folders=("dicom_anon", "ground", "t2spir"),
        ),
        NamedDataset(
            spec=DatasetSpec(
                name="SABS",
                volumes_folder="sabs_CT_normalized",
                labels={
                    1: "spleen",
                    2: "right kidney",
                    3: "left kidney",
                    4: "gallbladder",
                    5: "esophagus",
                    6: "liver",
                    7: "stomach",
                    8: "aorta",
                    9: "inferior vena cava",
                    10: "portal and splenic vein",
                    11: "pancreas",
                    12: "right adrenal",
                    13: "left adrenal",
                },
                test_labels=(1, 2, 3, 6),
                organ_groups=((1, 6), (2, 3)),
                supervoxel_min_vox=5000,
            ),
            preparation=Preparation(
                window=(-125.0, 275.0), rescale_to=(0.0, 255.0), border_px=32, in_plane_factor=1.75
            ),
            find_scans=find_synapse,
            inner_folders=("img", "label"),
        ),
        NamedDataset(
            spec=DatasetSpec(
                name="CMR",
                volumes_folder="cmr_MR_normalized",
                labels={1: "LV myocardium", 2: "LV blood pool", 3: "right ventricle"},
                test_labels=(1, 2, 3),
                organ_groups=((1, 2, 3),),
                supervoxel_min_vox=1000,
                raw_labels={200: 1, 500: 2, 600: 3},
                nsd_tolerance_mm=2.0,  # less than two pixels: the myocardium is only some millimetres thick
            ),
            preparation=Preparation(clip_percentile=99.5, spacing_mm=(7.99, 1.25, 1.25), size_px=(256, 256)),
            find_scans=find_mscmrseg,
        ),
        NamedDataset(
            spec=DatasetSpec(
                name="PHANTOM",
                volumes_folder="phantom_MR_T2_normalized",
                labels=_ABDOMEN_MR,
                test_labels=(1, 2, 3, 4),
                organ_groups=((1, 4), (2, 3)),
                supervoxel_min_vox=180,
                is_synthetic=True,
            ),
            config_defaults={  # sized for two CPU cores
                "n_steps": 1000,
                "max_iters_per_load": 800,
                "lr_step_gamma": 0.1,
                "save_snapshot_every": 500,
                "num_workers": 0,
                "optim": {"lr": 3e-3},
                "model": {"encoder": "resnet18", "encoder_weights": None, "feature_width": 64},
                "evaluation": {"baselines": True},
            },
            recipe="strong",
        ),
    )
}
RAW_DATASETS = tuple(name for name, dataset in DATASETS.items() if dataset.find_scans is not None)


def find_spec(name: str) -> DatasetSpec:
    """Return the spec of dataset `name`; raises `UserError` if it is unknown."""
    if name not in DATASETS:
        raise UserError(f"dataset={name}: must be one of {', '.join(DATASETS)}")
    return DATASETS[name].spec


def path_group(name: str) -> str:
    """Return the dataset's group of keys below `path`; custom datasets share one."""
    return name if name in DATASETS else "OWN"


def default_data_dir(name: str) -> str:
    """Return the default folder of a dataset's prepared volumes, named or custom."""
    return f"data/{name}"
