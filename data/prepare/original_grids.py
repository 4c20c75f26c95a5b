"""The raw grids of prepared scans, to restore predictions on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.file_states import confirm_state
from data.layout import DatasetLayout
from data.model_frame import restore_probabilities
from data.prepare.archive_records import read_archive_state
from data.raw_grids import RawGrid
from data.transforms import Preparation, prepared_grid, restore_mask
from data.volume_records import ScanRecord, list_recorded_ids, read_scan_record, scan_record_path
from util.errors import ProblemList, UserError
from util.io.image_io import Geometry, read_geometry, write_volume
from util.io.nifti_masks import write_with_header_geometry
from util.io.nifti_names import nifti_stem
from util.remarks import remark

ORIGINAL_FOLDER = "predictions_original"  # of an evaluation's predictions


@dataclass(frozen=True, eq=False)
class OriginalGrid:
    """The grid of a raw scan, and its relation to the prepared volume.

    Attributes:
        name: of the raw file without its ending, or of the scan in the download for a DICOM series.
        raw: the grid, and where its files were.
        prepared: the prepared volume's grid.
        preparation: between the two.
        files: the raw files of the image.
    """

    name: str
    raw: RawGrid
    prepared: Geometry
    preparation: Preparation
    files: tuple[Path, ...]

    def restore(self, probabilities: np.ndarray) -> np.ndarray:
        """Resample probabilities to the raw grid; see `restore_probabilities`."""
        return restore_probabilities(probabilities, self.prepared, self.raw.geometry, self.preparation)

    def restore_labels(self, label_map: np.ndarray) -> np.ndarray:
        """Resample a label map `(Z, H, W)` to the raw grid, label by label.

        See `restore_mask`; where outlines meet, the smaller id wins.
        """
        restored = np.zeros(self.raw.geometry.shape, label_map.dtype)
        for label in np.unique(label_map[label_map != 0]):
            mask = restore_mask(label_map == label, self.prepared, self.raw.geometry)
            restored[mask & (restored == 0)] = label
        return restored

    def write(self, path: Path, volume: np.ndarray) -> None:
        """Write a volume on the raw grid, with a NIfTI file's own qform and sform."""
        if self.raw.nifti_header is None:
            write_volume(path, volume, self.raw.geometry)
        else:
            write_with_header_geometry(path, volume, self.raw.nifti_header)


def find_original_grids(layout: DatasetLayout, scan_ids: Sequence[int]) -> dict[int, OriginalGrid]:
    """Find the raw grids of prepared scans.

    A raw scan that is no longer where it was prepared from causes a remark only, as its grid is recorded.

    Raises:
        UserError: a scan was not prepared here, or by an earlier version; its raw files have changed; or its
            volume is not on the recorded grid. One line each.
    """
    if layout.spec.is_synthetic:
        raise UserError(f"{layout.spec.name} is synthetic: its scans have no raw files, and one grid only")
    problems = ProblemList()
    records = {
        scan_id: problems.attempt(partial(_read_complete_record, layout, scan_id)) for scan_id in scan_ids
    }
    problems.raise_all()
    missing = _check_raw_files(layout, records)
    if missing:
        remark(
            f"{len(missing)} raw scan(s) are no longer where they were prepared from ({missing[0]}); the "
            "grids recorded then are used, and later changes of the files would not be noticed"
        )
    grids = {
        scan_id: problems.attempt(partial(_make_grid, layout, scan_id, record))
        for scan_id, record in records.items()
    }
    problems.raise_all()
    return grids


def _read_complete_record(layout: DatasetLayout, scan_id: int) -> ScanRecord:
    record = read_scan_record(scan_record_path(layout, scan_id))
    command = f"script/prepare.sh dataset={layout.spec.name} raw=<download>"
    if record is None:
        raise UserError(
            f"{layout.image_path(scan_id)}: was not prepared by {command}, so its raw grid is unknown; "
            "prepare the dataset with it"
        )
    if record.grid is None:
        raise UserError(
            f"{scan_record_path(layout, scan_id)}: is of an earlier version and lacks the raw grid; run "
            f"{command} again, which adds it and rebuilds nothing"
        )
    return record


def _check_raw_files(layout: DatasetLayout, records: Mapping[int, ScanRecord]) -> list[Path]:
    """Return the folders or files that are missing; raises `UserError` for those that have changed."""
    problems, missing, archives = ProblemList(), [], set()
    for scan_id, record in records.items():
        archive = _find_archive(record.grid)
        if archive is not None:
            archives.add(archive)
            continue
        for role, name, known in record.raw:
            path = record.grid.path / name
            if role != "image":
                continue
            if not path.is_file():
                missing.append(path)
                break
            if confirm_state(known, path) is None:
                problems.lines.append(_describe_change(path, f"scan {scan_id}"))
                break
    state = read_archive_state(layout, list_recorded_ids(layout)) if archives else None
    for archive in sorted(archives):
        if state is None or confirm_state(state, archive) is None:
            problems.lines.append(_describe_change(archive, "the dataset"))
    problems.raise_all()
    return missing


def _find_archive(grid: RawGrid) -> Path | None:
    return next((path for path in (grid.path, *grid.path.parents) if path.is_file()), None)


def _describe_change(path: Path, what: str) -> str:
    return f"{path}: has changed since {what} was prepared; run script/prepare.sh again, then predict again"


def _make_grid(layout: DatasetLayout, scan_id: int, record: ScanRecord) -> OriginalGrid:
    files = tuple(record.grid.path / name for role, name, _ in record.raw if role == "image")
    try:
        preparation = restore_preparation(record.parameters["preparation"])
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{scan_record_path(layout, scan_id)}: is damaged ({error}); run script/prepare.sh again"
        ) from error
    prepared, path = prepared_grid(record.grid.geometry, preparation), layout.image_path(scan_id)
    if not read_geometry(path).same_grid(prepared):
        raise UserError(f"{path}: is not on the grid that it was prepared to; run script/prepare.sh again")
    name = Path(record.name).name if len(files) > 1 else nifti_stem(Path(files[0].name))
    return OriginalGrid(name, record.grid, prepared, preparation, files)


def restore_preparation(values: Mapping[str, Any]) -> Preparation:
    """Restore a preparation from recorded parameters; raises Python's own errors."""
    return Preparation(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )
