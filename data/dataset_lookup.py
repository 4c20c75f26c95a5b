"""Look up a dataset by name: a named one, or one that its folder describes."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from data.custom_spec import DATASET_JSON, read_dataset_json
from data.datasets import DATASETS
from data.specs import DatasetSpec
from util.errors import UserError
from util.remarks import remark

FALLBACK_SUPERVOXEL_MIN_VOX = 5000


def find_dataset(name: str, data_dir: Path) -> DatasetSpec:
    """Return the spec of a dataset.

    Args:
        name: of a named dataset, or any other for a custom one.
        data_dir: the folder of the prepared volumes; that of a custom dataset holds a `dataset.json`.

    Raises:
        UserError: the dataset is unknown, or its description is damaged.
    """
    if name in DATASETS:
        return DATASETS[name].spec
    path = data_dir / DATASET_JSON
    if not path.is_file():
        raise UserError(
            f"dataset={name}: must be {', '.join(DATASETS)}, or a custom dataset that {path} describes (no "
            f"such file); run bash script/prepare.sh dataset={name} raw=<folder>, or set path.OWN.data_dir"
        )
    spec = _read_spec(path, path.stat().st_mtime_ns)
    if spec.name != name:
        raise UserError(
            f"dataset={name}: {path} describes {spec.name}; set dataset={spec.name}, or another folder"
        )
    return spec


@lru_cache(maxsize=8)
def _read_spec(path: Path, _modified_ns: int) -> DatasetSpec:
    spec = read_dataset_json(path).spec
    if spec.supervoxel_min_vox is None:
        remark(
            f"{path}: supervoxel_min_size_vox is missing, {FALLBACK_SUPERVOXEL_MIN_VOX} assumed; "
            "preparation by script/prepare.sh derives it from the size of the bodies"
        )
        spec = replace(spec, supervoxel_min_vox=FALLBACK_SUPERVOXEL_MIN_VOX)
    return spec
