"""Check a raw dataset completely before anything is written."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from data.layout import DatasetLayout
from data.processes import run_in_processes, scan_errors
from data.raw.raw_scans import RawDataset, RawScan, RawVolume
from data.specs import DatasetSpec
from data.supervoxels.body import find_body, scale_intensities
from data.supervoxels.neighbours import weight_factors
from data.supervoxels.supervoxel_records import supervoxel_record_path
from data.transforms import Preparation, prepare_label_map, prepared_grid, transform_intensities
from data.volume_records import list_recorded_ids
from util.errors import UserError
from util.io.grids import find_reorientation, reorient_grid, reorient_volume
from util.io.image_io import Geometry
from util.io.nifti_files import MAX_VOXELS

_MIN_SLICES = 2  # an episode's support and query
_BODY_SIDE_PX = 128  # finer slices are subsampled to measure the body
_VOLUME_NAME = re.compile(r"(?:image|label)_(\d+)\.nii(?:\.gz)?")


@dataclass(frozen=True)
class _Task:
    """One scan to check; pickled for a worker process."""

    dataset: RawDataset
    scan: RawScan
    measure_bodies: bool


@dataclass(frozen=True)
class ScanReport:
    """Result of checking one raw scan.

    Attributes:
        problems: one line each.
        remarks: on what preparation will lose, one line each.
        grid: of the prepared volume; None if the scan cannot be read.
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
    """Check raw scans for everything that preparation or a later step would refuse.

    Args:
        dataset: the raw scans.
        scans: those of the dataset to read and check.
        measure_bodies: also estimate the size of the bodies.
        n_workers, progress: see `run_in_processes`.

    Returns:
        A report for each scan id.

    Raises:
        UserError: a worker died.
    """
    tasks = [_Task(dataset, scan, measure_bodies) for scan in scans]
    reports = run_in_processes(
        _check_one, tasks, description="checking", n_workers=n_workers, progress=progress
    )
    return {scan.scan_id: report for scan, report in zip(scans, reports, strict=True)}


def find_problems(
    dataset: RawDataset, reports: Mapping[int, ScanReport], *, prepared: Mapping[int, Geometry]
) -> list[str]:
    """List the problems of a dataset as a whole and of its scans.

    Args:
        dataset: the raw scans.
        reports: of the checked scans, by id.
        prepared: grids of the volumes that are up to date, by scan id.

    Returns:
        One line per distinct problem, the dataset's own first, then scan by scan.
    """
    of_scans = chain(*(reports[scan_id].problems for scan_id in sorted(reports)))
    grids = {scan_id: report.grid for scan_id, report in reports.items() if report.grid} | dict(prepared)
    return list(dict.fromkeys([*dataset.problems, *of_scans, *_size_problems(dataset, grids)]))


def _size_problems(dataset: RawDataset, grids: Mapping[int, Geometry]) -> list[str]:
    """List scans whose slices cannot be batched with those of most."""
    if not grids:
        return []
    most_common, _ = Counter(grid.shape[1:] for grid in grids.values()).most_common(1)[0]
    hint = "leave the scan out" if dataset.custom is None else "set size_px in dataset.json"
    return [
        f"{_source(scan)}: slices must have one size in all scans, {_size(most_common)} for most, got "
        f"{_size(grids[scan.scan_id].shape[1:])}; {hint}"
        for scan in dataset.scans
        if scan.scan_id in grids and grids[scan.scan_id].shape[1:] != most_common
    ]


def _size(size_px: Sequence[int]) -> str:
    return f"{size_px[0]} x {size_px[1]} px"


def _source(scan: RawScan) -> Path:
    """Return a scan's path for messages: its image file, or the folder of its slices."""
    return scan.image_files[0] if len(scan.image_files) == 1 else scan.image_files[0].parent


def _check_one(task: _Task) -> ScanReport:
    scan, preparation = task.scan, task.dataset.preparation_of(task.scan)
    source, is_custom = _source(scan), task.dataset.custom is not None
    try:
        with scan_errors(scan.scan_id, source, "check", source.parent):
            volume, problems = task.dataset.inspect(scan)
            if volume is None:
                return ScanReport(tuple(problems))
            problems = [*problems, *_border_problems(source, volume.geometry, preparation)]
            problems = problems or _intensity_problems(source, volume.image, preparation, is_custom=is_custom)
            if problems:
                return ScanReport(tuple(problems))
            grid = prepared_grid(volume.geometry, preparation)
            problems = _grid_problems(source, grid, is_custom=is_custom)
            if problems:
                return ScanReport(tuple(problems))
            losses, remarks = _find_lost_organs(scan, volume, preparation, task.dataset.spec)
            n_body_vox = _body_voxels(volume, preparation, grid) if task.measure_bodies else None
            return ScanReport(tuple(losses), tuple(remarks), grid, n_body_vox)
    except UserError as error:
        return ScanReport((str(error),))


def _border_problems(source: Path, geometry: Geometry, preparation: Preparation) -> list[str]:
    suffix = ""
    if preparation.orientation is not None:
        suffix = f" once turned to {preparation.orientation}"
        geometry = reorient_grid(geometry, find_reorientation(geometry, preparation.orientation))
    if min(geometry.shape[1:]) > 2 * preparation.border_px:
        return []
    return [
        f"{source}: slices must be larger than twice the border of {preparation.border_px} px that is cut "
        f"off, got {_size(geometry.shape[1:])}{suffix}; give the original scan"
    ]


def _intensity_problems(
    source: Path, image: np.ndarray, preparation: Preparation, *, is_custom: bool
) -> list[str]:
    """Report an image that is constant after clipping."""
    clipped = transform_intensities(image, preparation)
    if clipped.min() < clipped.max() or image.min() == image.max():  # the latter is reported already
        return []
    hint = "correct clip in dataset.json" if is_custom else "is this the original scan?"
    return [
        f"{source}: intensities must differ after clipping, got {clipped.flat[0]:g} everywhere, from "
        f"{image.min():g} to {image.max():g} before; {hint}"
    ]


def _grid_problems(source: Path, grid: Geometry, *, is_custom: bool) -> list[str]:
    """List the problems that supervoxels or episodes would have with a prepared grid."""
    problems = []
    if math.prod(grid.shape) > MAX_VOXELS:
        hint = "set coarser spacing_mm or smaller size_px in dataset.json" if is_custom else "leave it out"
        shape = " x ".join(map(str, grid.shape))
        problems.append(f"{source}: must have at most 2^30 voxels after preparation, got {shape}; {hint}")
    try:
        weight_factors(grid.spacing_mm)
    except UserError as error:
        hint = ", or set spacing_mm [z, y, x] in dataset.json with equal y and x" if is_custom else ""
        problems.append(f"{source}: after preparation, {error}{hint}")
    if grid.shape[0] < _MIN_SLICES:
        problems.append(
            f"{source}: must have at least {_MIN_SLICES} slices after preparation, got {grid.shape[0]} at "
            f"{grid.spacing_mm[0]:g} mm; "
            + ("lower spacing_mm's z in dataset.json" if is_custom else "leave it out")
        )
    return problems


def _find_lost_organs(
    scan: RawScan, volume: RawVolume, preparation: Preparation, spec: DatasetSpec
) -> tuple[list[str], list[str]]:
    """Report lost organs: as problems if no test organ is left, else as remarks."""
    if volume.label_map is None:
        return [], []
    source = scan.label_files[0] if len(scan.label_files) == 1 else _source(scan)
    labels = tuple(spec.labels)
    prepared = prepare_label_map(volume.label_map, volume.geometry, preparation, labels=labels)
    before, after = (
        set(np.flatnonzero(np.bincount(voxels.ravel()))) for voxels in (volume.label_map, prepared)
    )
    organs = ", ".join(f"{label} {spec.labels[label]}" for label in sorted(before - after))
    if not organs:
        return [], []
    line = f"{source}: nothing is left of {organs} after resampling"
    if not after.intersection(spec.test_labels):
        return [f"{line}; use finer spacing_mm or leave it out"], []
    return [], [line]


def _body_voxels(volume: RawVolume, preparation: Preparation, grid: Geometry) -> float:
    """Estimate, from the raw volume, the number of body voxels of the prepared one."""
    image, raw = volume.image, volume.geometry
    if preparation.orientation is not None:
        turn = find_reorientation(raw, preparation.orientation)
        image, raw = reorient_volume(image, turn), reorient_grid(raw, turn)
    stride = max(1, min(image.shape[1:]) // _BODY_SIDE_PX)
    image = transform_intensities(image[:, ::stride, ::stride], preparation)
    ratio = stride**2 * math.prod(raw.spacing_mm) / math.prod(grid.spacing_mm)
    return min(float(find_body(scale_intensities(image)).sum()) * ratio, float(math.prod(grid.shape)))


def check_volumes_replaceable(dataset: RawDataset, layout: DatasetLayout, *, force: bool) -> None:
    """Check that no foreign or stale volume would be lost.

    Args:
        dataset: the raw scans.
        layout: paths of the volumes.
        force: allow to replace foreign files, and to remove our volumes of scans that are no longer in the
            download.

    Raises:
        UserError: a file is in the way; the first one is named.
    """
    raw_files = {path.resolve() for scan in dataset.scans for path in (*scan.image_files, *scan.label_files)}
    ids, ours = {scan.scan_id for scan in dataset.scans}, set(list_recorded_ids(layout))
    for path, scan_id in _present_volumes(layout):
        if path.resolve() in raw_files:
            raise UserError(f"{path}: is a raw file that would be overwritten; choose another data_dir")
        if scan_id in ours and scan_id not in ids and not force:
            raise UserError(
                f"{path}: was prepared from a scan that the download no longer holds; restore the scan, "
                "or set force=True to remove the volume"
            )
        if scan_id not in ours and (scan_id not in ids or not force):
            hint = ", or set force=True to replace it" if scan_id in ids else ""
            raise UserError(
                f"{path}: was not made by this command; move it away, choose another data_dir{hint}"
            )


def check_supervoxels_replaceable(layout: DatasetLayout, outdated: Iterable[RawScan], *, force: bool) -> None:
    """Check that no foreign supervoxels of outdated images would be replaced.

    Raises:
        UserError: there are some; the first file is named.
    """
    for path in foreign_supervoxels(layout, outdated):
        if not force:
            raise UserError(
                f"{path}: was not made by this command, and its image is about to change; move it away, "
                "choose another supervoxel_dir, or set force=True to replace it"
            )


def foreign_supervoxels(layout: DatasetLayout, scans: Iterable[RawScan]) -> list[Path]:
    """List the supervoxel files of some scans that have no record of ours."""
    paths = [layout.supervoxel_path(scan.scan_id) for scan in scans]
    return [path for path in paths if path.exists() and not supervoxel_record_path(path).exists()]


def _present_volumes(layout: DatasetLayout) -> list[tuple[Path, int]]:
    """List existing images and labels with their scans' ids, ordered by id."""
    entries = layout.volumes_dir.iterdir() if layout.volumes_dir.is_dir() else ()
    matches = [(path, _VOLUME_NAME.fullmatch(path.name)) for path in entries]
    return sorted(((path, int(match[1])) for path, match in matches if match), key=lambda item: item[::-1])
