"""Bring a dataset's prepared volumes up to date with its raw scans."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.file_states import file_state
from data.layout import DatasetLayout
from data.processes import run_in_processes
from data.raw.raw_scans import RawDataset, RawScan
from data.transforms import prepare_volume
from data.volume_records import (
    ScanRecord,
    hash_raw_files,
    is_current,
    list_recorded_ids,
    make_recipe,
    record_path,
    write_record,
)
from util.errors import UserError
from util.io.files import atomic_write, make_folder, remove_file, try_lock
from util.io.image_io import Geometry, write_volume


@dataclass(frozen=True)
class _Task:
    """One scan to prepare; travels to a worker process."""

    dataset: RawDataset
    scan: RawScan
    layout: DatasetLayout


def find_outdated_scans(dataset: RawDataset, layout: DatasetLayout) -> list[RawScan]:
    """List the scans whose volumes are missing or are not what would be made now."""
    return [
        scan
        for scan in dataset.scans
        if not is_current(layout, scan.scan_id, _recipe_of(dataset, scan), scan=scan)
    ]


@contextmanager
def lock_folder(data_dir: Path) -> Iterator[None]:
    """Make the data folder if need be, and keep other preparations out of it.

    Where the file system knows no locks nobody is kept out.

    Raises:
        UserError: another preparation is at work there, or the folder cannot be made.
    """
    make_folder(data_dir, key="data_dir")
    # The folder itself is locked: no file stays behind, and a killed process's lock is gone with it.
    handle = os.open(data_dir, os.O_RDONLY)
    try:
        if try_lock(handle) is False:
            raise UserError(f"{data_dir}: another preparation is at work there; wait until it has ended")
        yield
    finally:
        os.close(handle)


def remove_stale_volumes(dataset: RawDataset, layout: DatasetLayout) -> list[int]:
    """Remove the volumes that we made of scans that the download no longer holds.

    Returns their ids.
    """
    dropped = sorted(set(list_recorded_ids(layout)) - {scan.scan_id for scan in dataset.scans})
    for scan_id in dropped:
        remove_file(layout.image_path(scan_id))  # first: it is what makes a scan
        remove_file(layout.label_path(scan_id))
        remove_file(record_path(layout, scan_id))
    return dropped


def prepare_scans(
    dataset: RawDataset,
    layout: DatasetLayout,
    *,
    scans: Sequence[RawScan],
    n_workers: int | None = None,
    progress: bool = True,
) -> None:
    """Prepare some scans and write their volumes and records, several at a time.

    The first failure ends the call; scans that are done or in work by then keep their files, and none is ever
    half written.

    Args:
        dataset: the raw scans.
        layout: where volumes go.
        scans: those of the dataset to prepare.
        n_workers, progress: see `run_in_processes`.

    Raises:
        UserError: a scan is damaged, a file cannot be written, or a worker died.
    """
    tasks = [_Task(dataset, scan, layout) for scan in scans]
    run_in_processes(_prepare_one, tasks, doing="preparing", n_workers=n_workers, progress=progress)


def _prepare_one(task: _Task) -> None:
    scan, dataset = task.scan, task.dataset
    place = scan.image_files[0]
    try:
        raw = hash_raw_files(scan)  # first: a change while we read must show later
        volume = dataset.read(scan)
        image, label_map, geometry = prepare_volume(
            volume.image,
            volume.label_map,
            volume.geometry,
            dataset.preparation_of(scan),
            labels=tuple(dataset.spec.labels),
        )
        record = {"recipe": _recipe_of(dataset, scan), "name": scan.name, "raw": raw}
        _write(task.layout, scan.scan_id, record=record, image=image, label_map=label_map, geometry=geometry)
    except UserError as error:
        folders = (place.parent, task.layout.volumes_dir)
        if any(str(folder) in str(error) for folder in folders):
            raise  # it names the file already
        raise UserError(f"{place}: {error}") from error
    except MemoryError as error:
        raise UserError(
            f"{place}: not enough memory to prepare scan {scan.scan_id}; use fewer workers"
        ) from error
    except Exception as error:
        raise RuntimeError(f"preparing scan {scan.scan_id} ({place}) failed: {error}") from error


def _recipe_of(dataset: RawDataset, scan: RawScan) -> dict:
    return make_recipe(dataset.spec, dataset.preparation_of(scan))


def _write(
    layout: DatasetLayout,
    scan_id: int,
    *,
    record: dict,
    image: np.ndarray,
    label_map: np.ndarray | None,
    geometry: Geometry,
) -> None:
    """Write a scan's volumes and record so that a cut at any point shows.

    The record goes first: cut off after it, the scan is made anew instead of passing for somebody else's. The
    old image goes before the label changes, and the new one comes last: no image ever has another's label.
    """
    image_path, label_path = layout.image_path(scan_id), layout.label_path(scan_id)
    with ExitStack() as last_first:
        new_image = last_first.enter_context(atomic_write(image_path, suffix=".nii.gz"))
        write_volume(new_image, image, geometry)
        label_state = None
        if label_map is not None:
            new_label = last_first.enter_context(atomic_write(label_path, suffix=".nii.gz"))
            write_volume(new_label, label_map, geometry)
            label_state = file_state(new_label)
        made = ScanRecord(**record, image=file_state(new_image), label_map=label_state)
        write_record(record_path(layout, scan_id), made)
        remove_file(image_path)
        if label_map is None:
            remove_file(label_path)
