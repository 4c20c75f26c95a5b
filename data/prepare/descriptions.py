"""Write the description of a prepared folder: `cases.json` and `dataset.json`."""

import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from data.custom_spec import DATASET_JSON, read_dataset_json, write_dataset_json
from data.data_settings import PrepareConfig
from data.layout import DatasetLayout
from data.prepared_files import CASES_NAME, CaseNames
from data.raw.raw_scans import RawDataset
from data.specs import CustomDataset
from util.errors import UserError
from util.io.files import write_text
from util.io.json_files import read_json


def check_target_folder(dataset: RawDataset, folder: Path, *, force: bool) -> None:
    """Check that the folder of the prepared volumes belongs to no other dataset.

    Args:
        dataset: the raw scans.
        folder: of the prepared volumes.
        force: allow to replace another dataset, and a foreign `dataset.json`.

    Raises:
        UserError: the folder lies in the raw one, or holds another dataset.
    """
    cases = folder / CASES_NAME
    existing = None if force else _read_dataset_name(cases)
    if existing not in (None, dataset.spec.name):
        raise UserError(
            f"{cases}: the folder holds the prepared dataset {existing}; choose another data_dir, or set "
            "force=True to replace it"
        )
    if dataset.custom is None:
        return
    raw_folder = dataset.custom_folder.resolve()
    if folder.resolve().is_relative_to(raw_folder):
        raise UserError(
            f"data_dir={folder}: must not lie in the folder of the raw data, {raw_folder}; "
            "choose another data_dir"
        )
    path = folder / DATASET_JSON
    is_ours = any(folder.glob("*/scan_*.record.json"))
    if path.exists() and not force and not is_ours and not _describes(path, dataset.custom):
        raise UserError(
            f"{path}: was not made by this command; move it away, choose another data_dir, or set force=True "
            "to replace it"
        )


def write_descriptions(dataset: RawDataset, layout: DatasetLayout) -> None:
    """Update the scans' names and a custom dataset's `dataset.json`.

    Raises:
        UserError: a file cannot be written.
    """
    cases = CaseNames(dataset.spec.name, {scan.scan_id: scan.name for scan in dataset.scans})
    path = layout.data_dir / CASES_NAME
    text = json.dumps(asdict(cases), indent=2, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    if dataset.custom is not None and not _describes(layout.data_dir / DATASET_JSON, dataset.custom):
        write_dataset_json(layout.data_dir / DATASET_JSON, dataset.custom)


def with_known_min_size(dataset: RawDataset, config: PrepareConfig) -> RawDataset:
    """Set the minimum size of supervoxels if it is known before the scans are read.

    It comes from `dataset.json`, from `n_sv`, or from an earlier preparation with the same parameters.
    """
    if dataset.spec.supervoxel_min_vox is not None:
        return dataset
    known = config.n_sv
    with suppress(UserError):
        earlier = read_dataset_json(config.folder / DATASET_JSON)
        if known is None and earlier.preparation == dataset.preparation:
            known = earlier.spec.supervoxel_min_vox
    return dataset if known is None else with_min_size(dataset, known)


def with_min_size(dataset: RawDataset, min_vox: int) -> RawDataset:
    """Return a custom dataset with a minimum size of supervoxels, in voxels."""
    spec = replace(dataset.spec, supervoxel_min_vox=min_vox)
    return replace(dataset, spec=spec, custom=replace(dataset.custom, spec=spec))


def _read_dataset_name(cases: Path) -> str | None:
    name = (read_json(cases, dict) or {}).get("dataset")
    return name if isinstance(name, str) else None


def _describes(path: Path, dataset: CustomDataset) -> bool:
    try:
        return read_dataset_json(path) == dataset
    except UserError:
        return False
