"""Know a finished preparation again without unpacking its archive.

`archive.record.json` beside the volumes says which archive they came from.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

from data.data_settings import PrepareConfig
from data.datasets import DATASETS
from data.file_states import FileState, confirm_state
from data.layout import DatasetLayout
from data.own_spec import DATASET_JSON, read_dataset_json
from data.specs import DatasetSpec
from data.transforms import Preparation
from data.volume_records import is_current, list_recorded_ids, make_recipe, read_record, record_path
from util.errors import UserError
from util.io.files import remove_file, write_text
from util.io.grids import is_orientation

_RECORD_NAME = "archive.record.json"


def find_finished(config: PrepareConfig, archive: Path) -> DatasetLayout | None:
    """Find volumes that were all made from an archive and are as they were written.

    Returns:
        Where they lie; None where anything is missing or changed, the archive among it.
    """
    try:
        spec, preparation = _known_dataset(config)
    except UserError:  # own data that were never prepared, or whose description was changed
        return None
    layout = config.layout_of(spec)
    scan_ids = list_recorded_ids(layout)
    state = _read_record(layout.volumes_dir / _RECORD_NAME, scan_ids)
    if state is None or confirm_state(state, archive) is None:
        return None
    are_current = all(
        is_current(layout, scan_id, _recipe_of(layout, scan_id, preparation), scan=None)
        for scan_id in scan_ids
    )
    return layout if are_current else None


def _recipe_of(layout: DatasetLayout, scan_id: int, preparation: Preparation) -> dict:
    """Return the present recipe of a scan, in the orientation that its raw files were found to have."""
    record = read_record(record_path(layout, scan_id))
    found = record.recipe.get("preparation") if record else None
    letters = found.get("orientation") if isinstance(found, dict) else None
    if not (isinstance(letters, str) and is_orientation(letters)):
        letters = preparation.orientation
    return make_recipe(layout.spec, replace(preparation, orientation=letters))


def record_archive(layout: DatasetLayout, state: FileState) -> None:
    """Note that all volumes were made from an archive.

    Raises `UserError` when that fails.
    """
    record = {"archive": asdict(state), "scan_ids": list_recorded_ids(layout)}
    write_text(layout.volumes_dir / _RECORD_NAME, json.dumps(record, indent=1) + "\n")


def remove_archive_record(layout: DatasetLayout) -> None:
    """Take the note back, because volumes are about to change."""
    remove_file(layout.volumes_dir / _RECORD_NAME)


def _known_dataset(config: PrepareConfig) -> tuple[DatasetSpec, Preparation]:
    named = DATASETS.get(config.dataset)
    if named is not None and named.preparation is not None:
        return named.spec, named.preparation
    own = read_dataset_json(config.folder / DATASET_JSON)
    min_vox = own.spec.supervoxel_min_vox
    if own.spec.name != config.dataset or min_vox is None or config.n_sv not in (None, min_vox):
        raise UserError(f"{config.folder / DATASET_JSON}: is not of {config.dataset} as prepared here")
    return own.spec, own.preparation


def _read_record(path: Path, scan_ids: list[int]) -> FileState | None:
    """Read the archive's state; None where there is none, or not of just these scans."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return FileState(**record["archive"]) if record["scan_ids"] == scan_ids else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
