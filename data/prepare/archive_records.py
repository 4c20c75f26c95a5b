"""Record the archive of a finished preparation, to skip unpacking it again."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data.custom_spec import DATASET_JSON, read_dataset_json
from data.data_settings import PrepareConfig
from data.datasets import DATASETS
from data.file_states import FileState, confirm_state
from data.layout import DatasetLayout
from data.specs import DatasetSpec
from data.transforms import Preparation
from data.volume_records import (
    ScanRecord,
    list_parameters,
    list_recorded_ids,
    read_scan_record,
    scan_record_path,
    volumes_are_current,
)
from util.errors import UserError
from util.io.files import remove_file
from util.io.grids import is_orientation
from util.io.json_files import read_json, write_json

_RECORD_NAME = "archive.record.json"


@dataclass(frozen=True)
class _ArchiveRecord:
    archive: FileState
    scan_ids: list[int]


def find_finished(config: PrepareConfig, archive: Path) -> DatasetLayout | None:
    """Return the layout of an archive's volumes; None if anything changed since."""
    try:
        spec, preparation = _known_dataset(config)
    except UserError:  # a custom dataset never prepared, or with a changed description
        return None
    layout = config.layout_of(spec)
    scan_ids = list_recorded_ids(layout)
    state = read_archive_state(layout, scan_ids)
    if state is None or confirm_state(state, archive) is None:
        return None
    records = {scan_id: read_scan_record(scan_record_path(layout, scan_id)) for scan_id in scan_ids}
    are_current = all(
        volumes_are_current(layout, scan_id, _present_parameters(layout.spec, record, preparation), scan=None)
        and record.grid is not None  # an earlier version's; unpacked once more to complete it
        for scan_id, record in records.items()
    )
    return layout if are_current else None


def _present_parameters(spec: DatasetSpec, record: ScanRecord | None, preparation: Preparation) -> dict:
    """Return a scan's present parameters, with the recorded orientation."""
    fields = record.parameters.get("preparation") if record else None
    letters = fields.get("orientation") if isinstance(fields, dict) else None
    if not (isinstance(letters, str) and is_orientation(letters)):
        letters = preparation.orientation
    return list_parameters(spec, replace(preparation, orientation=letters))


def record_archive(layout: DatasetLayout, state: FileState) -> None:
    """Record the archive of all volumes; raises `UserError` if that fails."""
    record = _ArchiveRecord(state, list_recorded_ids(layout))
    write_json(layout.volumes_dir / _RECORD_NAME, asdict(record))


def remove_archive_record(layout: DatasetLayout) -> None:
    """Remove the record, because volumes are about to change."""
    remove_file(layout.volumes_dir / _RECORD_NAME)


def _known_dataset(config: PrepareConfig) -> tuple[DatasetSpec, Preparation]:
    named = DATASETS.get(config.dataset)
    if named is not None and named.preparation is not None:
        return named.spec, named.preparation
    dataset = read_dataset_json(config.folder / DATASET_JSON)
    min_vox = dataset.spec.supervoxel_min_vox
    if dataset.spec.name != config.dataset or min_vox is None or config.n_sv not in (None, min_vox):
        raise UserError(f"{config.folder / DATASET_JSON}: is not of {config.dataset} as prepared here")
    return dataset.spec, dataset.preparation


def read_archive_state(layout: DatasetLayout, scan_ids: list[int]) -> FileState | None:
    """Read the archive's state; None if missing, damaged or of other scans."""
    record = read_json(layout.volumes_dir / _RECORD_NAME, _ArchiveRecord)
    return record.archive if record is not None and record.scan_ids == scan_ids else None
