"""Prepare volumes, supervoxels and summaries from a download."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from data.data_settings import PrepareConfig
from data.file_states import file_state
from data.layout import DatasetLayout
from data.prepare.archive_records import find_finished, record_archive, remove_archive_record
from data.prepare.dataset_checks import (
    ScanReport,
    check_scans,
    check_supervoxels_replaceable,
    check_volumes_replaceable,
    find_problems,
    foreign_supervoxels,
)
from data.prepare.descriptions import (
    check_target_folder,
    with_known_min_size,
    with_min_size,
    write_descriptions,
)
from data.prepare.sources import Source, find_archive, open_source
from data.prepare.summary import describe_scans, remove_summaries, update_summaries
from data.prepare.volume_preparation import (
    find_outdated_scans,
    lock_folder,
    prepare_scans,
    remove_stale_volumes,
)
from data.raw.finding import find_raw
from data.raw.raw_scans import RawDataset, RawScan
from data.supervoxels.body import MIN_SIZE_SHARE, suggest_min_size
from data.supervoxels.generation import generate_supervoxels
from data.volume_records import list_recorded_ids
from util.errors import UserError
from util.io.files import remove_file, remove_leftovers
from util.io.image_io import Geometry, read_geometry
from util.remarks import printed_remarks, remark, rewritten_remarks


@dataclass(frozen=True)
class _Volumes:
    """Ids of the scans whose volumes were made, kept or removed."""

    layout: DatasetLayout
    made: tuple[int, ...]
    up_to_date: tuple[int, ...]
    removed: tuple[int, ...]


def prepare_dataset(config: PrepareConfig, *, progress: bool = True) -> None:
    """Update a prepared dataset to match its download, or only check the download.

    All outdated scans are checked before anything is written. An interrupted call leaves nothing half
    written, and the next one resumes. Results are printed.

    Args:
        config: source, destination and options.
        progress: show progress bars.

    Raises:
        UserError: the download is missing or has problems (one line each), files are in the way or cannot be
            written, or a worker died.
    """
    start_s = time.perf_counter()
    with ExitStack() as lock, printed_remarks():
        volumes = _find_finished(config, lock) or _update_volumes(config, lock, progress=progress)
        if volumes is not None:
            _finish(volumes, config, progress=progress)
            print(f"done in {time.perf_counter() - start_s:.1f} s")


def _find_finished(config: PrepareConfig, lock: ExitStack) -> _Volumes | None:
    """Skip unpacking an archive if nothing has changed since."""
    archive = find_archive(Path(config.raw))
    if config.check or config.force or archive is None:
        return None
    layout = find_finished(config, archive)
    if layout is None:
        return None
    _lock_and_clean(layout, lock)
    print(f"{config.dataset}: {archive} -> {layout.volumes_dir}, unchanged since all was prepared")
    return _Volumes(layout, made=(), up_to_date=tuple(list_recorded_ids(layout)), removed=())


def _update_volumes(config: PrepareConfig, lock: ExitStack, *, progress: bool) -> _Volumes | None:
    """Check the download and make outdated volumes; returns None if only checking."""
    archive = find_archive(Path(config.raw))
    archive_state = None if archive is None else file_state(archive)  # first: a later change must be detected
    with open_source(Path(config.raw), beside=config.folder) as source:
        try:
            volumes = _update_from(source, config, lock, progress=progress)
        except UserError as error:
            raise UserError(source.with_archive_path(str(error))) from error
    if archive_state is not None and volumes is not None:
        record_archive(volumes.layout, archive_state)
    return volumes


def _update_from(
    source: Source, config: PrepareConfig, lock: ExitStack, *, progress: bool
) -> _Volumes | None:
    dataset = source.with_archive_folders(find_raw(config.dataset, source.folder))
    dataset = with_known_min_size(dataset, config)
    print(
        f"{config.dataset}: {config.raw}, {_count(len(dataset.scans), 'scan')} -> "
        f"{'checking only' if config.check else config.layout_of(dataset.spec).volumes_dir}",
        flush=True,
    )
    with rewritten_remarks(source.with_archive_path):
        for text in dataset.remarks:
            remark(text)
        outdated = _find_outdated(config, dataset)
        dataset = _check(config, dataset, outdated, progress=progress)
        if config.check:
            return None
        layout = config.layout_of(dataset.spec)
        _lock_and_clean(layout, lock)
        return _make(dataset, layout, outdated, n_workers=config.num_workers, progress=progress)


def _lock_and_clean(layout: DatasetLayout, lock: ExitStack) -> None:
    """Lock the prepared folder, and remove leftovers of killed processes."""
    lock.enter_context(lock_folder(layout.data_dir))
    lock.callback(_remove_leftovers, layout)
    _remove_leftovers(layout)


def _find_outdated(config: PrepareConfig, dataset: RawDataset) -> Sequence[RawScan]:
    """List the scans to check, unless a foreign volume would be lost."""
    if config.check:
        return dataset.scans
    check_target_folder(dataset, config.folder, force=config.force)
    volumes = config.layout_of(dataset.spec)
    outdated = dataset.scans if config.force else find_outdated_scans(dataset, volumes)
    check_volumes_replaceable(dataset, volumes, force=config.force)
    return outdated if dataset.spec.supervoxel_min_vox else dataset.scans


def _check(
    config: PrepareConfig, dataset: RawDataset, scans: Sequence[RawScan], *, progress: bool
) -> RawDataset:
    """Raise all problems at once; sets the minimum size of supervoxels."""
    measure = dataset.spec.supervoxel_min_vox is None
    reports = check_scans(
        dataset, scans=scans, measure_bodies=measure, n_workers=config.num_workers, progress=progress
    )
    problems = find_problems(dataset, reports, prepared=_prepared_grids(config, dataset, reports))
    if scans or problems:  # up-to-date volumes were checked when they were made
        print(f"{_count(len(scans), 'scan')} checked, {_count(len(problems), 'problem')}", flush=True)
    for report in reports.values():
        for text in report.remarks:
            remark(text)
    if problems:
        raise UserError("\n".join(problems))
    if measure:
        n_body_vox = median(report.n_body_vox for report in reports.values())
        min_size = suggest_min_size(n_body_vox)
        print(
            f"supervoxels: minimum size {min_size} voxels, {100 * MIN_SIZE_SHARE:.2g} % of the median body's "
            f"{n_body_vox:.3g} (supervoxel_min_size_vox in dataset.json sets another)",
            flush=True,
        )
        dataset = with_min_size(dataset, min_size)
    if not config.check:
        layout = config.layout_of(dataset.spec)
        check_supervoxels_replaceable(layout, scans, force=config.force)
    return dataset


def _prepared_grids(
    config: PrepareConfig, dataset: RawDataset, reports: Mapping[int, ScanReport]
) -> dict[int, Geometry]:
    """Read the grids of the volumes that are up to date."""
    if config.check:
        return {}
    layout = config.layout_of(dataset.spec)
    unread = [scan.scan_id for scan in dataset.scans if scan.scan_id not in reports]
    return {scan_id: read_geometry(layout.image_path(scan_id)) for scan_id in unread}


def _make(
    dataset: RawDataset,
    layout: DatasetLayout,
    outdated: Sequence[RawScan],
    *,
    n_workers: int | None,
    progress: bool,
) -> _Volumes:
    if outdated or set(list_recorded_ids(layout)) - {scan.scan_id for scan in dataset.scans}:
        remove_archive_record(layout)
        remove_summaries(layout)
    removed = remove_stale_volumes(dataset, layout)
    for path in foreign_supervoxels(layout, outdated):
        remove_file(path)
    write_descriptions(dataset, layout)
    prepare_scans(dataset, layout, scans=outdated, n_workers=n_workers, progress=progress)
    rebuilt = {scan.scan_id for scan in outdated}
    up_to_date = [scan.scan_id for scan in dataset.scans if scan.scan_id not in rebuilt]
    return _Volumes(layout, tuple(sorted(rebuilt)), tuple(up_to_date), tuple(removed))


def _finish(volumes: _Volumes, config: PrepareConfig, *, progress: bool) -> None:
    """Make supervoxels and summaries, and print the state of the dataset."""
    layout = volumes.layout
    supervoxels = generate_supervoxels(layout, n_workers=config.num_workers, progress=progress)
    are_new = update_summaries(layout, n_workers=config.num_workers)
    print(describe_scans(layout))
    removed = f", {len(volumes.removed)} removed" if volumes.removed else ""
    print(f"volumes: {len(volumes.made)} made, {len(volumes.up_to_date)} up to date{removed}")
    print(
        f"supervoxels: {len(supervoxels.made)} made, {len(supervoxels.skipped)} up to date, "
        f"{len(supervoxels.foreign)} of others kept"
    )
    print(f"fingerprint and contact sheet: {'made' if are_new else 'up to date'}, in {layout.data_dir}")


def _remove_leftovers(layout: DatasetLayout) -> None:
    for folder in (layout.data_dir, layout.volumes_dir, layout.supervoxels_dir):
        remove_leftovers(folder)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number in (0, 1) else 's'}"
