"""Look for everything that is wrong before anything is written."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from data.layout import DatasetLayout
from data.processes import run_in_processes
from data.raw.raw_scans import RawDataset, RawScan, RawVolume
from data.specs import DatasetSpec
from data.supervoxels.body import find_body, scale_intensities
from data.supervoxels.neighbours import weight_factors
from data.supervoxels.supervoxel_records import record_path as supervoxel_record_path
from data.transforms import Preparation, prepare_label_map, prepared_grid, transform_intensities
from data.volume_records import list_recorded_ids
from util.errors import UserError
from util.io.grids import find_reorientation, reorient_grid, reorient_volume
from util.io.image_io import Geometry
from util.io.nifti_files import MAX_VOXELS

_MIN_SLICES = 2  # an episode's support and query
_BODY_SIDE_PX = 128  # finer slices are thinned out to measure the body
_VOLUME_NAME = re.compile(r"(?:image|label)_(\d+)\.nii(?:\.gz)?")


@dataclass(frozen=True)
class _Task:
    """One scan to check; travels to a worker process."""

    dataset: RawDataset
    scan: RawScan
    measure_bodies: bool


@dataclass(frozen=True)
class ScanReport:
    """What was found in one raw scan.

    Attributes:
        problems: what is wrong with it, one line each.
        remarks: what will be lost, one line each.
        grid: of the volume that would be made; None if the scan cannot be read.
        n_body_vox: estimate of the body's voxels on that grid; None if not requested.
    """

    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    grid: Geometry | None = None
    n_body_vox: float | None = None


def check_scans(
    dataset: RawDataset,
    *,
    scans: Sequence[RawScan],
    measure_bodies: bool = False,
    n_workers: int | None = None,
    progress: bool = True,
) -> dict[int, ScanReport]:
    """Look in raw scans for all that preparation or a later step would refuse.

    Args:
        dataset: the raw scans.
        scans: those of the dataset to read and check.
        measure_bodies: also estimate how large the bodies are.
        n_workers, progress: see `run_in_processes`.

    Returns:
        A report for each scan id.

    Raises:
        UserError: a worker died.
    """
    tasks = [_Task(dataset, scan, measure_bodies) for scan in scans]
    reports = run_in_processes(_check_one, tasks, doing="checking", n_workers=n_workers, progress=progress)
    return {scan.scan_id: report for scan, report in zip(scans, reports, strict=True)}


def find_problems(
    dataset: RawDataset, reports: Mapping[int, ScanReport], *, prepared: Mapping[int, Geometry]
) -> list[str]:
    """List all that is wrong with a dataset as a whole and with its scans.

    Args:
        dataset: the raw scans.
        reports: of the scans that were checked, by id.
        prepared: grids of the volumes that are up to date, by scan id.

    Returns:
        One line for each problem, the dataset's own first, then scan by scan; none twice.
    """
    of_scans = chain(*(reports[scan_id].problems for scan_id in sorted(reports)))
    grids = {scan_id: report.grid for scan_id, report in reports.items() if report.grid} | dict(prepared)
    return list(dict.fromkeys([*dataset.problems, *of_scans, *_size_problems(dataset, grids)]))


def _size_problems(dataset: RawDataset, grids: Mapping[int, Geometry]) -> list[str]:
    """List the scans whose slices would have another size than those of most: training batches slices."""
    if not grids:
        return []
    usual, _ = Counter(grid.shape[1:] for grid in grids.values()).most_common(1)[0]
    hint = "leave the scan out" if dataset.own is None else "set size_px in dataset.json"
    return [
        f"{_place(scan)}: slices must have one size in all scans, {_size(usual)} for most, got "
        f"{_size(grids[scan.scan_id].shape[1:])}; {hint}"
        for scan in dataset.scans
        if scan.scan_id in grids and grids[scan.scan_id].shape[1:] != usual
    ]


def _size(size_px: Sequence[int]) -> str:
    return f"{size_px[0]} x {size_px[1]} px"


def _place(scan: RawScan) -> object:
    """Return what a message names a scan by: its first file, or the folder of a series of slices."""
    return scan.image_files[0] if len(scan.image_files) == 1 else scan.image_files[0].parent


def _check_one(task: _Task) -> ScanReport:
    scan, preparation = task.scan, task.dataset.preparation_of(task.scan)
    place, is_own = _place(scan), task.dataset.own is not None
    try:
        volume, problems = task.dataset.inspect(scan)
        if volume is None:
            return ScanReport(tuple(problems))
        problems = [*problems, *_border_problems(place, volume.geometry, preparation)]
        problems = problems or _intensity_problems(place, volume.image, preparation, is_own=is_own)
        if problems:
            return ScanReport(tuple(problems))
        grid = prepared_grid(volume.geometry, preparation)
        problems = _grid_problems(place, grid, is_own=is_own)
        if problems:
            return ScanReport(tuple(problems))
        lost, remarks = _lost_organs(scan, volume, preparation, task.dataset.spec)
        n_body_vox = _body_voxels(volume, preparation, grid) if task.measure_bodies else None
        return ScanReport(tuple(lost), tuple(remarks), grid, n_body_vox)
    except UserError as error:
        return ScanReport((str(error),))
    except MemoryError:
        return ScanReport((f"{place}: not enough memory to read scan {scan.scan_id}; use fewer workers",))
    except Exception as error:
        raise RuntimeError(f"checking scan {scan.scan_id} ({place}) failed: {error}") from error


def _border_problems(place: object, geometry: Geometry, preparation: Preparation) -> list[str]:
    turned = ""
    if preparation.orientation is not None:
        turned = f" once turned to {preparation.orientation}"
        geometry = reorient_grid(geometry, find_reorientation(geometry, preparation.orientation))
    if min(geometry.shape[1:]) > 2 * preparation.border_px:
        return []
    return [
        f"{place}: slices must be larger than twice the border of {preparation.border_px} px that is cut "
        f"off, got {_size(geometry.shape[1:])}{turned}; give the original scan"
    ]


def _intensity_problems(
    place: object, image: np.ndarray, preparation: Preparation, *, is_own: bool
) -> list[str]:
    """Say if clipping leaves nothing of an image."""
    clipped = transform_intensities(image, preparation)
    if clipped.min() < clipped.max() or image.min() == image.max():  # the latter is said of the raw image
        return []
    hint = "correct clip in dataset.json" if is_own else "is this the original scan?"
    return [
        f"{place}: intensities must differ after clipping, got {clipped.flat[0]:g} everywhere, from "
        f"{image.min():g} to {image.max():g} before; {hint}"
    ]


def _grid_problems(place: object, grid: Geometry, *, is_own: bool) -> list[str]:
    """List what supervoxels and episodes would refuse of a prepared volume's grid."""
    problems = []
    if math.prod(grid.shape) > MAX_VOXELS:
        hint = "set coarser spacing_mm or smaller size_px in dataset.json" if is_own else "leave it out"
        shape = " x ".join(map(str, grid.shape))
        problems.append(f"{place}: must have at most 2^30 voxels after preparation, got {shape}; {hint}")
    try:
        weight_factors(grid.spacing_mm)
    except UserError as error:
        hint = ", or set spacing_mm [z, y, x] in dataset.json with equal y and x" if is_own else ""
        problems.append(f"{place}: after preparation, {error}{hint}")
    if grid.shape[0] < _MIN_SLICES:
        problems.append(
            f"{place}: must have at least {_MIN_SLICES} slices after preparation, got {grid.shape[0]} at "
            f"{grid.spacing_mm[0]:g} mm; "
            + ("lower spacing_mm's z in dataset.json" if is_own else "leave it out")
        )
    return problems


def _lost_organs(
    scan: RawScan, volume: RawVolume, preparation: Preparation, spec: DatasetSpec
) -> tuple[list[str], list[str]]:
    """Say which organs preparation removes: problems if no organ to test is left, and remarks."""
    if volume.label_map is None:
        return [], []
    place, labels = scan.label_files[0] if len(scan.label_files) == 1 else _place(scan), tuple(spec.labels)
    prepared = prepare_label_map(volume.label_map, volume.geometry, preparation, labels=labels)
    before, after = (set(np.flatnonzero(np.bincount(each.ravel()))) for each in (volume.label_map, prepared))
    lost = ", ".join(f"{label} {spec.labels[label]}" for label in sorted(before - after))
    if not lost:
        return [], []
    if not after.intersection(spec.test_labels):
        return [
            f"{place}: nothing is left of {lost} after resampling; use finer spacing_mm or leave it out"
        ], []
    return [], [f"{place}: nothing is left of {lost} after resampling"]


def _body_voxels(volume: RawVolume, preparation: Preparation, grid: Geometry) -> float:
    """Estimate how many voxels of a prepared volume belong to the body, from the raw one."""
    image, raw = volume.image, volume.geometry
    if preparation.orientation is not None:
        turn = find_reorientation(raw, preparation.orientation)
        image, raw = reorient_volume(image, turn), reorient_grid(raw, turn)
    stride = max(1, min(image.shape[1:]) // _BODY_SIDE_PX)
    image = transform_intensities(image[:, ::stride, ::stride], preparation)
    ratio = stride**2 * math.prod(raw.spacing_mm) / math.prod(grid.spacing_mm)
    return min(float(find_body(scale_intensities(image)).sum()) * ratio, float(math.prod(grid.shape)))


def check_volumes_replaceable(
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
    ids, ours = {scan.scan_id for scan in dataset.scans}, set(list_recorded_ids(layout))
    for path, scan_id in _present_volumes(layout):
        if path.resolve() in raw_files:
            raise UserError(f"{path}: is a raw file, which would be overwritten; choose another data_dir")
        if scan_id in ours and scan_id not in ids and not force:
            raise UserError(
                f"{path}: was prepared from a scan that the download no longer holds; restore the scan, "
                "or let force=True remove the volume"
            )
        if scan_id not in ours and (scan_id not in ids or not force):
            hint = ", or let force=True replace it" if scan_id in ids else ""
            raise UserError(
                f"{path}: was not made by this command; move it away, choose another data_dir{hint}"
            )


def check_supervoxels_replaceable(layout: DatasetLayout, outdated: Iterable[RawScan], *, force: bool) -> None:
    """Make sure that supervoxels of others do not outlive their image.

    Raises:
        UserError: there are such, and `force` does not allow to replace them; the first one is named.
    """
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
