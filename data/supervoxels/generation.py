"""Make the supervoxel files of a dataset in parallel.

Skips up-to-date files, rebuilds files whose image, parameters or algorithm changed, and checks and keeps
foreign files (made by other tools, hence without a record).
"""

import time
from dataclasses import dataclass
from pathlib import Path

from data.file_states import file_state
from data.layout import DatasetLayout
from data.processes import run_in_processes, scan_errors
from data.supervoxels import ALGORITHM_VERSION
from data.supervoxels.supervoxel_records import (
    SupervoxelParameters,
    SupervoxelRecord,
    read_supervoxel_record,
    supervoxel_record_path,
    supervoxels_are_current,
    write_supervoxel_record,
)
from util.errors import UserError
from util.io.files import atomic_write, remove_leftovers
from util.io.folders import check_folder
from util.io.image_io import read_geometry, read_volume, write_volume
from util.remarks import remark

MIN_SUPERVOXELS = 10  # per scan; with fewer, episodes hardly vary


@dataclass(frozen=True)
class GenerationSummary:
    """Result of `generate_supervoxels`.

    Attributes:
        made: ids of the scans that were segmented.
        skipped: ids of the scans that were up to date.
        foreign: ids of the scans whose foreign file was kept.
        n_supervoxels: scan id -> number of supervoxels, for made and skipped scans.
        seconds: wall time of the whole call.
    """

    made: tuple[int, ...]
    skipped: tuple[int, ...]
    foreign: tuple[int, ...]
    n_supervoxels: dict[int, int]
    seconds: float


@dataclass(frozen=True)
class _Task:
    """One scan to segment; pickled for a worker process."""

    scan_id: int
    image_path: Path
    supervoxel_path: Path
    parameters: SupervoxelParameters


def generate_supervoxels(
    layout: DatasetLayout,
    *,
    scale: float = 1.0,
    n_workers: int | None = None,
    progress: bool = True,
    force: bool = False,
) -> GenerationSummary:
    """Update a dataset's supervoxel files.

    Stops at the first failure; files of scans that are finished or running are kept. Files are written
    atomically.

    Args:
        layout: paths of images and supervoxels; its `supervoxel_min_vox` is the minimum size.
        scale: see `segmentation.segment_supervoxels`.
        n_workers, progress: see `run_in_processes`.
        force: rebuild up-to-date files; foreign files are kept nevertheless.

    Raises:
        UserError: an image is damaged or cannot be segmented; a foreign file's grid differs from the
            image's; a recorded file has another minimum size; a file cannot be written; the extension is
            needed but not built; a worker died. The message names the file.
    """
    start = time.perf_counter()
    if n_workers is not None and n_workers < 1:
        raise UserError(f"supervoxel workers: must be at least 1, got {n_workers}")
    remove_leftovers(layout.supervoxels_dir)
    parameters = SupervoxelParameters(ALGORITHM_VERSION, layout.supervoxel_min_vox, float(scale))
    tasks, foreign, counts = _find_tasks(layout, parameters, force=force)
    skipped = tuple(counts)
    if tasks:  # fail before segmenting rather than after
        check_folder(layout.supervoxels_dir, key=f"{layout.key}.supervoxel_dir", for_writing=True)
    counts |= _segment_scans(tasks, n_workers, progress=progress)
    _remark_on_sparse(counts, layout)
    return GenerationSummary(
        made=tuple(task.scan_id for task in tasks),
        skipped=skipped,
        foreign=tuple(foreign),
        n_supervoxels=dict(sorted(counts.items())),
        seconds=time.perf_counter() - start,
    )


def _find_tasks(
    layout: DatasetLayout, parameters: SupervoxelParameters, *, force: bool
) -> tuple[list[_Task], list[int], dict[int, int]]:
    """Return the scans to segment, those of foreign files, and the counts of up-to-date ones."""
    tasks, foreign, counts = [], [], {}
    for scan_id in layout.scan_ids():
        task = _Task(scan_id, layout.image_path(scan_id), layout.supervoxel_path(scan_id), parameters)
        _check_existing(task)
        if _is_foreign(task):
            foreign.append(scan_id)
        elif force or (count := _current_count(task)) is None:
            tasks.append(task)
        else:
            counts[scan_id] = count
    return tasks, foreign, counts


def _remark_on_sparse(counts: dict[int, int], layout: DatasetLayout) -> None:
    sparse = {scan_id: count for scan_id, count in counts.items() if count < MIN_SUPERVOXELS}
    if not sparse:
        return
    listed = ", ".join(f"scan {scan_id}: {count}" for scan_id, count in sorted(sparse.items()))
    remark(
        f"{layout.supervoxels_dir}: fewer than {MIN_SUPERVOXELS} supervoxels in {len(sparse)} scans "
        f"({listed}); episodes will hardly vary, lower n_sv (supervoxel_min_size_vox in dataset.json)"
    )


def _check_existing(task: _Task) -> None:
    """Refuse to replace a link, a folder or supervoxels of another minimum size."""
    path = task.supervoxel_path
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path}: links to a file that does not exist; mount or restore it, or remove the link"
        )
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: must be a file; remove the folder of this name")
    record = read_supervoxel_record(supervoxel_record_path(path)) if path.is_file() else None
    expected = task.parameters.min_size_vox
    if record is not None and record.parameters.min_size_vox != expected:
        min_size_vox = record.parameters.min_size_vox
        raise UserError(
            f"{path}: supervoxels must have at least {expected} voxels, its record says {min_size_vox}; "
            f"move it to a folder supervoxels_{min_size_vox} for n_sv={min_size_vox}, or delete it "
            "to have it rebuilt"
        )


def _is_foreign(task: _Task) -> bool:
    """Test for a supervoxel file without a record, and check its grid."""
    if not task.image_path.is_file():
        raise UserError(f"{task.image_path}: no such file; scan {task.scan_id} is not in this dataset")
    if not task.supervoxel_path.is_file() or supervoxel_record_path(task.supervoxel_path).exists():
        return False
    shape = read_geometry(task.supervoxel_path, needs_orientation=False).shape
    expected = read_geometry(task.image_path).shape
    if shape != expected:
        raise UserError(
            f"{task.supervoxel_path}: supervoxel grid {shape} differs from image grid {expected}; "
            "delete the file to have it rebuilt"
        )
    return True


def _current_count(task: _Task) -> int | None:
    """Return the number of supervoxels in an up-to-date file; None if it is outdated."""
    record = read_supervoxel_record(supervoxel_record_path(task.supervoxel_path))
    if record is None or not supervoxels_are_current(
        record, task.parameters, image_path=task.image_path, supervoxel_path=task.supervoxel_path
    ):
        return None
    return record.n_supervoxels


def _segment_scans(tasks: list[_Task], n_workers: int | None, *, progress: bool) -> dict[int, int]:
    """Segment scans in parallel; return scan id -> number of supervoxels."""
    if not tasks:
        return {}
    # Imported late, so that complete datasets can be used without the compiled extension, and here as well as
    # in the workers, so that a missing extension is reported before they start.
    from data.supervoxels.segmentation import check_parameters

    check_parameters(tasks[0].parameters.min_size_vox, tasks[0].parameters.scale)
    results = run_in_processes(
        _segment_scan, tasks, description="supervoxels", n_workers=n_workers, progress=progress
    )
    return dict(results)


def _segment_scan(task: _Task) -> tuple[int, int]:
    """Segment one scan and write its files; return its id and number of supervoxels."""
    from data.supervoxels.segmentation import make_supervoxels  # late, see `_segment_scans`

    parameters, folders = task.parameters, (task.image_path.parent, task.supervoxel_path.parent)
    with scan_errors(task.scan_id, task.image_path, "segment", *folders):
        image_state = file_state(task.image_path)  # before reading, to detect later changes
        volume, geometry = read_volume(task.image_path)
        supervoxels = make_supervoxels(
            volume, geometry.spacing_mm, min_size_vox=parameters.min_size_vox, scale=parameters.scale
        )
        count = int(supervoxels.max())
        with atomic_write(task.supervoxel_path, suffix=".nii.gz") as temporary:
            write_volume(temporary, supervoxels, geometry)
            # The record is written first: if interrupted before the file follows, the scan is rebuilt instead
            # of being treated as foreign.
            record = SupervoxelRecord(parameters, count, image_state, file_state(temporary))
            write_supervoxel_record(supervoxel_record_path(task.supervoxel_path), record)
    return task.scan_id, count
