"""Make the supervoxel files of a whole dataset, several scans at a time.

Scans that are done are skipped, those whose image, parameters or algorithm changed are made anew, and
files without a record (others' prepared data) are checked and kept.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.file_states import file_state
from data.layout import DatasetLayout
from data.processes import run_in_processes
from data.supervoxels import ALGORITHM_VERSION
from data.supervoxels.supervoxel_records import (
    Recipe,
    Record,
    is_current,
    read_record,
    record_path,
    write_record,
)
from util.errors import UserError
from util.io.files import atomic_write, remove_leftovers
from util.io.folders import check_folder
from util.io.image_io import read_geometry, read_volume, write_volume
from util.remarks import remark

MIN_SUPERVOXELS = 10  # in a scan: with fewer, the same episodes come again and again


@dataclass(frozen=True)
class GenerationSummary:
    """What `generate_supervoxels` did.

    Attributes:
        made: ids of the scans segmented now.
        skipped: ids of those that were up to date.
        foreign: ids of those with a file that we did not make, and kept.
        n_supervoxels: scan id -> supervoxels in its file, for made and skipped scans.
        seconds: wall time of the whole call.
    """

    made: tuple[int, ...]
    skipped: tuple[int, ...]
    foreign: tuple[int, ...]
    n_supervoxels: dict[int, int]
    seconds: float


@dataclass(frozen=True)
class _Task:
    """One scan to segment; travels to a worker process."""

    scan_id: int
    image_path: Path
    supervoxel_path: Path
    recipe: Recipe


def generate_supervoxels(
    layout: DatasetLayout,
    *,
    scan_ids: Iterable[int] | None = None,
    scale: float = 1.0,
    n_workers: int | None = None,
    progress: bool = True,
    force: bool = False,
) -> GenerationSummary:
    """Bring a dataset's supervoxel files up to date.

    The first failure ends the call; scans that are done or in work by then keep their files, and none is ever
    half written. Worker processes import neither the main module nor torch.

    Args:
        layout: where images lie and supervoxels go; its `supervoxel_min_vox` is their least size.
        scan_ids: the scans to look at; all of the dataset by default.
        scale: see `segmentation.segment_supervoxels`.
        n_workers: processes; by default one for each usable core, at most one for each scan to make.
        progress: show a progress bar while scans are made.
        force: make our own files anew even if they are up to date. Foreign ones are kept all the same.

    Raises:
        UserError: an image is missing, damaged or cannot be segmented; a foreign file's grid differs from the
            image's; a file of ours was made with another least size; a file cannot be written; the extension
            is not built although a scan must be made; a worker died. The message names the file.
    """
    start = time.perf_counter()
    if n_workers is not None and n_workers < 1:
        raise UserError(f"supervoxel workers: must be at least 1, got {n_workers}")
    remove_leftovers(layout.supervoxels_dir)
    recipe = Recipe(ALGORITHM_VERSION, layout.supervoxel_min_vox, float(scale))
    tasks, foreign, counts = [], [], {}
    for scan_id in sorted(set(layout.scan_ids() if scan_ids is None else scan_ids)):
        task = _Task(scan_id, layout.image_path(scan_id), layout.supervoxel_path(scan_id), recipe)
        _check_place(task)
        if _is_foreign(task):
            foreign.append(scan_id)
            continue
        count = None if force else _current_count(task)
        if count is None:
            tasks.append(task)
        else:
            counts[scan_id] = count
    skipped = tuple(counts)
    if tasks:  # before the work rather than after it
        check_folder(layout.supervoxels_dir, key=f"{layout.key}.supervoxel_dir", for_writing=True)
    counts |= _make_all(tasks, n_workers, progress=progress)
    few = {scan_id: count for scan_id, count in counts.items() if count < MIN_SUPERVOXELS}
    if few:
        named = ", ".join(f"scan {scan_id}: {count}" for scan_id, count in sorted(few.items()))
        remark(
            f"{layout.supervoxels_dir}: fewer than {MIN_SUPERVOXELS} supervoxels in {len(few)} scans "
            f"({named}); episodes will hardly vary, lower n_sv (supervoxel_min_size_vox in dataset.json)"
        )
    return GenerationSummary(
        made=tuple(task.scan_id for task in tasks),
        skipped=skipped,
        foreign=tuple(foreign),
        n_supervoxels=dict(sorted(counts.items())),
        seconds=time.perf_counter() - start,
    )


def _check_place(task: _Task) -> None:
    """Refuse to replace what was hardly meant to be replaced."""
    path = task.supervoxel_path
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path}: links to a file that does not exist; mount or restore it, or remove the link"
        )
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: must be a file; remove what is in its place")
    record = read_record(record_path(path)) if path.is_file() else None
    wanted = task.recipe.min_size_vox
    if record is not None and record.recipe.min_size_vox != wanted:
        found = record.recipe.min_size_vox
        raise UserError(
            f"{path}: holds supervoxels of at least {found} voxels (its record says), wanted are {wanted}; "
            f"move it to a folder supervoxels_{found} for n_sv={found}, or delete it to have it made anew"
        )


def _is_foreign(task: _Task) -> bool:
    """Tell whether somebody else made the supervoxel file, and check its grid."""
    if not task.image_path.is_file():
        raise UserError(f"{task.image_path}: no such file; scan {task.scan_id} is not in this dataset")
    if not task.supervoxel_path.is_file() or record_path(task.supervoxel_path).exists():
        return False
    found = read_geometry(task.supervoxel_path, needs_orientation=False).shape
    expected = read_geometry(task.image_path).shape
    if found != expected:
        raise UserError(
            f"{task.supervoxel_path}: supervoxel grid {found} differs from image grid {expected}; "
            "delete the file to have it made anew"
        )
    return True


def _current_count(task: _Task) -> int | None:
    """Return how many supervoxels an up-to-date file has, None for one to be made."""
    record = read_record(record_path(task.supervoxel_path))
    paths = {"image_path": task.image_path, "supervoxel_path": task.supervoxel_path}
    if record is None or not is_current(record, task.recipe, **paths):
        return None
    return record.n_supervoxels


def _make_all(tasks: list[_Task], n_workers: int | None, *, progress: bool) -> dict[int, int]:
    """Make the tasks' files; return scan id -> number of supervoxels."""
    if not tasks:
        return {}
    # Late, for it needs the extension: a dataset that is complete must be usable without a C compiler.
    # Here as well as in the workers, so that a missing one is told before they start.
    from data.supervoxels.segmentation import check_parameters

    check_parameters(tasks[0].recipe.min_size_vox, tasks[0].recipe.scale)
    results = run_in_processes(_make_one, tasks, doing="supervoxels", n_workers=n_workers, progress=progress)
    return dict(results)


def _make_one(task: _Task) -> tuple[int, int]:
    """Segment one scan and write its file and record.

    Returns its id and number of supervoxels.
    """
    from data.supervoxels.segmentation import make_supervoxels  # late: see `_make_all`

    recipe = task.recipe
    try:
        image_state = file_state(task.image_path)  # first: a change while we read must show later
        volume, geometry = read_volume(task.image_path)
        supervoxels = make_supervoxels(
            volume, geometry.spacing_mm, min_size_vox=recipe.min_size_vox, scale=recipe.scale
        )
        count = int(supervoxels.max())
        with atomic_write(task.supervoxel_path, suffix=".nii.gz") as temporary:
            write_volume(temporary, supervoxels, geometry)
            # The record goes first: cut off between the two, the scan is made anew instead of
            # passing for somebody else's.
            record = Record(recipe, count, image_state, file_state(temporary))
            write_record(record_path(task.supervoxel_path), record)
    except UserError as error:
        if any(str(path.parent) in str(error) for path in (task.image_path, task.supervoxel_path)):
            raise  # it names the file already
        raise UserError(f"{task.image_path}: {error}") from error
    except MemoryError as error:
        raise UserError(f"{task.image_path}: not enough memory to segment it; use fewer workers") from error
    except Exception as error:
        raise RuntimeError(
            f"supervoxels of scan {task.scan_id} ({task.image_path}) failed: {error}"
        ) from error
    return task.scan_id, count
