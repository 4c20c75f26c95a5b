"""Update a dataset's prepared volumes to match its raw scans."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.file_states import file_state
from data.layout import DatasetLayout
from data.processes import run_in_processes, scan_errors
from data.raw.raw_scans import RawDataset, RawScan
from data.raw_grids import RawGrid
from data.transforms import prepare_volume
from data.volume_records import (
    ScanRecord,
    hash_raw_files,
    list_parameters,
    list_recorded_ids,
    scan_record_path,
    update_grid,
    volumes_are_current,
    write_scan_record,
)
from util.errors import UserError
from util.io.files import atomic_write, make_folder, remove_file, try_lock
from util.io.image_io import Geometry, read_raw_geometry, write_volume


@dataclass(frozen=True)
class _Task:
    """One scan to prepare; pickled for a worker process."""

    dataset: RawDataset
    scan: RawScan
    layout: DatasetLayout


def find_outdated_scans(dataset: RawDataset, layout: DatasetLayout) -> list[RawScan]:
    """List the scans whose volumes are missing or out of date.

    The others' records are completed with their raw grids.
    """
    outdated = []
    for scan in dataset.scans:
        parameters = list_parameters(dataset.spec, dataset.preparation_of(scan))
        if volumes_are_current(layout, scan.scan_id, parameters, scan=scan):
            update_grid(layout, scan, read_geometry=partial(_read_geometry, dataset, scan))
        else:
            outdated.append(scan)
    return outdated


def _read_geometry(dataset: RawDataset, scan: RawScan) -> Geometry:
    if len(scan.image_files) > 1:
        return dataset.read(scan).geometry
    assumed = dataset.preparation_of(scan).assume_orientation
    return read_raw_geometry(scan.image_files[0], assume_orientation=assumed)


@contextmanager
def lock_folder(data_dir: Path) -> Iterator[None]:
    """Create the data folder, and lock it if the file system supports locks.

    Raises:
        UserError: another preparation is running there, or the folder cannot be created.
    """
    make_folder(data_dir, key="data_dir")
    # The folder itself is locked: no file stays behind, and a killed process releases its lock.
    handle = os.open(data_dir, os.O_RDONLY)
    try:
        if try_lock(handle) is False:
            raise UserError(f"{data_dir}: another preparation is running there; wait until it has finished")
        yield
    finally:
        os.close(handle)


def remove_stale_volumes(dataset: RawDataset, layout: DatasetLayout) -> list[int]:
    """Remove our volumes of scans missing from the download; returns their ids."""
    dropped = sorted(set(list_recorded_ids(layout)) - {scan.scan_id for scan in dataset.scans})
    for scan_id in dropped:
        remove_file(layout.image_path(scan_id))  # first: without it the scan does not exist
        remove_file(layout.label_path(scan_id))
        remove_file(scan_record_path(layout, scan_id))
    return dropped


def prepare_scans(
    dataset: RawDataset,
    layout: DatasetLayout,
    *,
    scans: Sequence[RawScan],
    n_workers: int | None = None,
    progress: bool = True,
) -> None:
    """Prepare scans and write their volumes and records, several at a time.

    The first failure ends the call; scans finished or running by then keep their files, and no file is ever
    half written.

    Args:
        dataset: the raw scans.
        layout: paths of the volumes.
        scans: those of the dataset to prepare.
        n_workers, progress: see `run_in_processes`.

    Raises:
        UserError: a scan is damaged, a file cannot be written, or a worker died.
    """
    tasks = [_Task(dataset, scan, layout) for scan in scans]
    run_in_processes(_prepare_one, tasks, description="preparing", n_workers=n_workers, progress=progress)


def _prepare_one(task: _Task) -> None:
    scan, dataset, path = task.scan, task.dataset, task.scan.image_files[0]
    with scan_errors(scan.scan_id, path, "prepare", path.parent, task.layout.volumes_dir):
        raw = hash_raw_files(scan)  # first: a change during reading must be detected later
        volume, preparation = dataset.read(scan), dataset.preparation_of(scan)
        image, label_map, geometry = prepare_volume(
            volume.image, volume.label_map, volume.geometry, preparation, labels=dataset.spec.labels
        )
        record = {"parameters": list_parameters(dataset.spec, preparation), "name": scan.name, "raw": raw}
        record["grid"] = RawGrid.from_scan(scan, volume.geometry)
        _write(task.layout, scan.scan_id, record=record, image=image, label_map=label_map, geometry=geometry)


def _write(
    layout: DatasetLayout,
    scan_id: int,
    *,
    record: dict,
    image: np.ndarray,
    label_map: np.ndarray | None,
    geometry: Geometry,
) -> None:
    """Write a scan's volumes and record; any interruption is detected later.

    The record goes first: interrupted after it, the scan is rebuilt instead of being taken for a foreign one.
    The old image is removed before the label changes, and the new one comes last, so that no image ever has
    the label of another.
    """
    image_path, label_path = layout.image_path(scan_id), layout.label_path(scan_id)
    with ExitStack() as files:  # closed in reverse order: the image last
        new_image = files.enter_context(atomic_write(image_path, suffix=".nii.gz"))
        write_volume(new_image, image, geometry)
        label_state = None
        if label_map is not None:
            new_label = files.enter_context(atomic_write(label_path, suffix=".nii.gz"))
            write_volume(new_label, label_map, geometry)
            label_state = file_state(new_label)
        state = ScanRecord(**record, image=file_state(new_image), label_map=label_state)
        write_scan_record(scan_record_path(layout, scan_id), state)
        remove_file(image_path)
        if label_map is None:
            remove_file(label_path)
