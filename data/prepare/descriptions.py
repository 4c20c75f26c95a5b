"""What a prepared folder says of itself.

That is `cases.json` and, for own data, `dataset.json`.
"""

import json
from pathlib import Path

from data.described import DESCRIPTION
from data.layout import DatasetLayout
from data.own_spec import OwnDataset, read_dataset_json, write_dataset_json
from data.prepare.records import recorded_ids
from data.prepared_files import CASES_NAME
from data.raw.records import RawDataset
from data.transforms import PREPARATIONS
from util.errors import UserError
from util.files import write_text


def refuse_taken_folder(dataset: RawDataset, layout: DatasetLayout, *, force: bool) -> None:
    """Make sure that own data's files have a place of their own.

    Args:
        dataset: the raw scans.
        layout: where the volumes would be written.
        force: somebody else's `dataset.json` may be replaced.

    Raises:
        UserError: the prepared folder would lie in the raw one, whose files would then be mixed up with ours,
            or has another dataset's `dataset.json`.
    """
    raw_json = _raw_description(dataset)
    if raw_json is None:
        return
    raw_folder = raw_json.parent.resolve()
    if layout.data_dir.resolve().is_relative_to(raw_folder):
        raise UserError(
            f"data_dir={layout.data_dir}: must not lie in the folder of the raw data, {raw_folder}; "
            "choose another data_dir"
        )
    path = layout.data_dir / DESCRIPTION
    if path.exists() and not force and not recorded_ids(layout) and not _says(path, _own(dataset)):
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
    own = _own(dataset)
    if own is not None and not _says(layout.data_dir / DESCRIPTION, own):
        write_dataset_json(layout.data_dir / DESCRIPTION, own)


def _own(dataset: RawDataset) -> OwnDataset | None:
    """Return own data's description; the published datasets need none."""
    path = _raw_description(dataset)
    return None if path is None else read_dataset_json(path)


def _raw_description(dataset: RawDataset) -> Path | None:
    """Find own data's `dataset.json`: the nearest above the images."""
    if dataset.spec.name in PREPARATIONS:
        return None
    folders = dataset.scans[0].image_files[0].parents
    return next(path for folder in folders if (path := folder / DESCRIPTION).is_file())


def _says(path: Path, own: OwnDataset) -> bool:
    try:
        return read_dataset_json(path) == own
    except UserError:
        return False
