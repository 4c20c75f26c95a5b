"""What a prepared folder says of itself.

That is `cases.json` and, for own data, `dataset.json`.
"""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from data.data_settings import PrepareConfig
from data.layout import DatasetLayout
from data.own_spec import DATASET_JSON, read_dataset_json, write_dataset_json
from data.prepared_files import CASES_NAME
from data.raw.raw_scans import RawDataset
from data.specs import OwnDataset
from util.errors import UserError
from util.io.files import write_text


def check_target_folder(dataset: RawDataset, folder: Path, *, force: bool) -> None:
    """Make sure that a dataset's files get a separate folder.

    Args:
        dataset: the raw scans.
        folder: where the prepared folder would be.
        force: another dataset, and somebody else's `dataset.json`, may be replaced.

    Raises:
        UserError: the prepared folder would lie in the raw one, whose files would then be mixed up with ours,
            or is another dataset's.
    """
    cases = folder / CASES_NAME
    other = None if force else _dataset_of(cases)
    if other not in (None, dataset.spec.name):
        raise UserError(
            f"{cases}: the folder holds the prepared dataset {other}; choose another data_dir, or let "
            "force=True replace it"
        )
    if dataset.own is None:
        return
    raw_folder = dataset.own_folder.resolve()
    if folder.resolve().is_relative_to(raw_folder):
        raise UserError(
            f"data_dir={folder}: must not lie in the folder of the raw data, {raw_folder}; "
            "choose another data_dir"
        )
    path = folder / DATASET_JSON
    is_ours = any(folder.glob("*/scan_*.record.json"))
    if path.exists() and not force and not is_ours and not _says(path, dataset.own):
        raise UserError(
            f"{path}: was not made by this command; move it away, choose another data_dir, or let force=True "
            "replace it"
        )


def write_descriptions(dataset: RawDataset, layout: DatasetLayout) -> None:
    """Write which scan is which of the download, and own data's `dataset.json`.

    Files that say the same already are left alone.

    Raises:
        UserError: a file cannot be written.
    """
    cases = {"dataset": dataset.spec.name, "scans": {str(scan.scan_id): scan.name for scan in dataset.scans}}
    path = layout.data_dir / CASES_NAME
    text = json.dumps(cases, indent=2, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    if dataset.own is not None and not _says(layout.data_dir / DATASET_JSON, dataset.own):
        write_dataset_json(layout.data_dir / DATASET_JSON, dataset.own)


def with_known_min_size(dataset: RawDataset, config: PrepareConfig) -> RawDataset:
    """Return a dataset with its least size of supervoxels, if that is known.

    `dataset.json` or `n_sv` says it, or an earlier preparation to the same grid chose it; otherwise it stays
    None, until the scans are read.
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
    """Return own data with a least size of supervoxels, in voxels."""
    spec = replace(dataset.spec, supervoxel_min_vox=min_vox)
    return replace(dataset, spec=spec, own=replace(dataset.own, spec=spec))


def _dataset_of(cases: Path) -> str | None:
    try:
        name = json.loads(cases.read_text(encoding="utf-8"))["dataset"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def _says(path: Path, own: OwnDataset) -> bool:
    try:
        return read_dataset_json(path) == own
    except UserError:
        return False
