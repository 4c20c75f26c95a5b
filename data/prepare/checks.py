"""Look for everything that is wrong before anything is written."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from data.layout import DatasetLayout
from data.prepare.records import recorded_ids
from data.processes import run_in_processes
from data.raw.checks import check_dataset
from data.raw.records import RawDataset, RawScan
from data.supervoxels.records import record_path as supervoxel_record_path
from util.errors import UserError

_VOLUME_NAME = re.compile(r"(?:image|label)_(\d+)\.nii(?:\.gz)?")


@dataclass(frozen=True)
class _Task:
    """One scan to check; travels to a worker process."""

    dataset: RawDataset
    scan: RawScan


def find_problems(
    dataset: RawDataset, *, scans: Sequence[RawScan], n_workers: int | None = None, progress: bool = True
) -> list[str]:
    """List all that is wrong with a dataset as a whole and with some of its scans.

    Args:
        dataset: the raw scans.
        scans: those of the dataset to read and check.
        n_workers, progress: see `run_in_processes`.

    Returns:
        One line for each problem, the dataset's own first, then scan by scan; none twice.

    Raises:
        UserError: a worker died.
    """
    tasks = [_Task(dataset, scan) for scan in scans]
    of_scans = run_in_processes(_check_one, tasks, doing="checking", n_workers=n_workers, progress=progress)
    return list(dict.fromkeys([*check_dataset(dataset), *chain(*of_scans)]))


def _check_one(task: _Task) -> list[str]:
    scan, preparation = task.scan, task.dataset.preparation
    place = next(iter((*scan.image_files, *scan.label_files)), scan.name)
    try:
        volume, problems = task.dataset.inspect(scan)
    except UserError as error:
        return [str(error)]
    except MemoryError:
        return [f"{place}: not enough memory to read scan {scan.scan_id}; use fewer workers"]
    except Exception as error:
        raise RuntimeError(f"checking scan {scan.scan_id} ({place}) failed: {error}") from error
    if volume is not None and min(volume.geometry.shape[1:]) <= 2 * preparation.border_px:
        n_rows, n_columns = volume.geometry.shape[1:]
        problems = [
            *problems,
            f"{place}: slices must be larger than twice the border of {preparation.border_px} px that is cut "
            f"off, got {n_rows} x {n_columns} px; give the original scan",
        ]
    return problems


def refuse_overwriting(
    dataset: RawDataset, layout: DatasetLayout, *, outdated: Sequence[RawScan], force: bool
) -> None:
    """Make sure that nobody's files would be lost, or mixed with ours.

    Args:
        dataset: the raw scans.
        layout: where volumes and supervoxels would be written.
        outdated: the scans whose volumes would be.
        force: files that somebody else made may be replaced, and volumes that we made of scans that the
            download no longer holds may be removed.

    Raises:
        UserError: a file is in the way; the first one is named.
    """
    raw_files = {path.resolve() for scan in dataset.scans for path in (*scan.image_files, *scan.label_files)}
    ids, ours = {scan.scan_id for scan in dataset.scans}, set(recorded_ids(layout))
    for path, scan_id in _present_volumes(layout):
        if path.resolve() in raw_files:
            raise UserError(f"{path}: is a raw file, which would be overwritten; choose another data_dir")
        if scan_id in ours and scan_id not in ids and not force:
            raise UserError(
                f"{path}: was prepared from a scan that the download no longer holds; restore the scan, "
                "or let force=True remove the volume"
            )
        if scan_id not in ours and (scan_id not in ids or not force):
            way_out = ", or let force=True replace it" if scan_id in ids else ""
            raise UserError(
                f"{path}: was not made by this command; move it away, choose another data_dir{way_out}"
            )
    for path in foreign_supervoxels(layout, outdated):
        if not force:
            raise UserError(
                f"{path}: was not made by this command, and its image is about to be; move it away, choose "
                "another supervoxel_dir, or let force=True replace it"
            )


def foreign_supervoxels(layout: DatasetLayout, scans: Iterable[RawScan]) -> list[Path]:
    """List the supervoxel files of some scans that somebody else made."""
    paths = [layout.supervoxel_path(scan.scan_id) for scan in scans]
    return [path for path in paths if path.exists() and not supervoxel_record_path(path).exists()]


def _present_volumes(layout: DatasetLayout) -> list[tuple[Path, int]]:
    """List the images and labels that are there, with their scans' ids.

    They stand in the order of the ids.
    """
    entries = layout.volumes_dir.iterdir() if layout.volumes_dir.is_dir() else ()
    found = [(path, _VOLUME_NAME.fullmatch(path.name)) for path in entries]
    return sorted(((path, int(match[1])) for path, match in found if match), key=lambda item: item[::-1])
