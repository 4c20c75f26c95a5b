"""Find what a dataset is, published or described by itself."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from data.own_spec import read_dataset_json
from data.specs import DATASETS, DatasetSpec
from util.errors import UserError
from util.remarks import remark

DESCRIPTION = "dataset.json"
FALLBACK_SUPERVOXEL_MIN_VOX = 5000


def find_dataset(name: str, data_dir: Path) -> DatasetSpec:
    """Return the spec of a dataset.

    Args:
        name: of a published dataset or PHANTOM, or any other for own data.
        data_dir: the folder of the prepared volumes; own data's holds a `dataset.json`.

    Raises:
        UserError: there is no such dataset, or its description is damaged.
    """
    if name in DATASETS:
        return DATASETS[name]
    path = data_dir / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"dataset={name}: must be {', '.join(DATASETS)}, or own data that {path} describes (no such "
            f"file); run bash script/prepare.sh dataset={name} raw=<folder>, or set path.OWN.data_dir"
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
            f"{path}: supervoxel_min_size_vox is not given, {FALLBACK_SUPERVOXEL_MIN_VOX} assumed; "
            "preparation by script/prepare.sh chooses it by the size of the bodies"
        )
        spec = replace(spec, supervoxel_min_vox=FALLBACK_SUPERVOXEL_MIN_VOX)
    return spec
