"""CHAOST2: T2-SPIR scans of the CHAOS train set, a DICOM and a PNG per slice."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from data.label_maps import describe_unknown_values
from data.raw.dicom import SliceHeader, read_header, read_series, series_problems, sort_slices
from data.raw.listing import list_files, natural_sort_key
from data.raw.png import read_grey_levels
from data.raw.raw_scans import Inspection, RawDataset, RawScan, RawVolume
from data.raw.scan_checks import fold_remarks, image_problems, organ_problems
from data.specs import DatasetSpec
from data.transforms import Preparation
from util.errors import UserError, shorten_list

_SEQUENCE, _IMAGES, _GROUND_TRUTH = "t2spir", "dicom_anon", "ground"  # folders, in lower case
# Grey levels from-to of each organ. Ranges and not ranks: a scan without one organ shifts no other.
GREY_RANGES = {1: (55, 70), 2: (110, 135), 3: (175, 200), 4: (240, 255)}
_NO_LABEL = 255  # in the table from grey level to label id

_Read = TypeVar("_Read")


class _Case(NamedTuple):
    """A case folder's files."""

    images: list[Path]
    labels: list[Path]


def find_chaos(root: Path, spec: DatasetSpec, preparation: Preparation) -> RawDataset:
    """Find the scans `<id>/T2SPIR/{DICOM_anon/*.dcm,Ground/*.png}` below a folder.

    A scan's id is its case folder's number. A parent folder without any ground truth (the challenge's test
    part) is skipped; among labelled cases, missing ground truth is a problem.

    Raises:
        UserError: there is no case with ground truth.
    """
    cases = _find_cases(root)
    labelled = {folder.parent for folder, case in cases.items() if case.labels}
    if not labelled:
        raise UserError(
            f"{root}: must hold CHAOS's MR/<id>/T2SPIR with DICOM_anon/*.dcm and Ground/*.png, got "
            f"{len(cases)} case(s) and no ground truth; give the folder of the CHAOS train set"
        )
    scans, problems = _number_cases({folder: cases[folder] for folder in cases if folder.parent in labelled})
    problems += [
        f"{folder}: must hold T2SPIR/DICOM_anon/*.dcm and T2SPIR/Ground/*.png, got none; restore the case"
        for parent in sorted(labelled)
        for folder in sorted(parent.iterdir())
        if folder.name.isdecimal() and folder.is_dir() and folder not in cases
    ]
    skipped = [str(folder) for folder in cases if folder.parent not in labelled]
    remarks = [f"left out, without any ground truth: {shorten_list(skipped)}"] if skipped else []
    return RawDataset(
        spec=spec,
        preparation=preparation,
        scans=tuple(scans[scan_id] for scan_id in sorted(scans)),
        inspect_scan=inspect_chaos_scan,
        problems=tuple(problems),
        remarks=(*remarks, *fold_remarks(len(scans))),
    )


def inspect_chaos_scan(scan: RawScan, spec: DatasetSpec) -> Inspection:
    """Read a scan's DICOM and PNG files, and list their problems.

    A PNG has the stem of its DICOM file, and the same rows and columns.

    Returns:
        The volume, or None if a file is unusable; and the problems, one line each.
    """
    folder = scan.image_files[0].parents[1]
    headers, image_faults = _read_each(read_header, scan.image_files)
    levels, label_faults = _read_each(read_grey_levels, scan.label_files)
    problems = [*image_faults, *label_faults, *_find_unpaired(scan, folder)]
    if not problems:  # a missing file would make slices uneven, too
        problems += series_problems(list(headers.values()), folder) or _mismatched_images(headers, levels)
    problems += _unknown_levels(levels)
    if problems:
        return None, problems
    try:
        image, geometry = read_series(list(headers.values()))
    except UserError as error:
        return None, [str(error)]
    by_stem = {path.stem: grey for path, grey in levels.items()}
    table = _label_table()
    label_map = np.stack([table[by_stem[header.path.stem]] for header in sort_slices(list(headers.values()))])
    problems = [*image_problems(folder, image), *organ_problems(folder, label_map, spec)]
    return RawVolume(image, label_map, geometry), problems


def _find_cases(root: Path) -> dict[Path, _Case]:
    cases: dict[Path, _Case] = {}
    for path in list_files(root):
        case = path.parents[2] if len(path.parents) > 2 else None
        if case is None or path.parents[1].name.lower() != _SEQUENCE:
            continue
        kind = (path.parent.name.lower(), path.suffix.lower())
        if kind == (_IMAGES, ".dcm"):
            cases.setdefault(case, _Case([], [])).images.append(path)
        elif kind == (_GROUND_TRUTH, ".png"):
            cases.setdefault(case, _Case([], [])).labels.append(path)
    return cases


def _number_cases(cases: Mapping[Path, _Case]) -> tuple[dict[int, RawScan], list[str]]:
    scans: dict[int, RawScan] = {}
    folders: dict[int, Path] = {}
    problems = []
    for folder in sorted(cases, key=lambda folder: natural_sort_key(folder.name)):
        if not folder.name.isdecimal():
            problems.append(f"{folder}: the case folder's name must be a number, the scan's id; rename it")
            continue
        scan_id = int(folder.name)
        if not cases[folder].images:
            problems.append(
                f"{folder}: must hold T2SPIR/DICOM_anon/*.dcm, got ground truth alone; restore them"
            )
            continue
        if scan_id in folders:
            problems.append(
                f"{folder}: must be the only case {scan_id}, {folders[scan_id]} is another; keep one"
            )
            continue
        folders[scan_id] = folder
        images, labels = map(tuple, cases[folder])
        scans[scan_id] = RawScan(scan_id, folder.name, images, labels)
    return scans, problems


def _read_each(read: Callable[[Path], _Read], files: Iterable[Path]) -> tuple[dict[Path, _Read], list[str]]:
    values, problems = {}, []
    for path in files:
        try:
            values[path] = read(path)
        except UserError as error:
            problems.append(str(error))
    return values, problems


def _find_unpaired(scan: RawScan, folder: Path) -> list[str]:
    images = {path.stem: path.name for path in scan.image_files}
    labels = {path.stem: path.name for path in scan.label_files}
    checks = (
        (images, labels, "DICOM file must have a PNG of the same stem in Ground", "ground truth"),
        (labels, images, "PNG must have a DICOM file of the same stem in DICOM_anon", "DICOM files"),
    )
    return [
        f"{folder}: each {demand}, found none for {shorten_list(unpaired)}; restore the {partner}"
        for files, partners, demand, partner in checks
        if (unpaired := [name for stem, name in files.items() if stem not in partners])
    ]


def _mismatched_images(headers: Mapping[Path, SliceHeader], levels: Mapping[Path, np.ndarray]) -> list[str]:
    sizes = {path.stem: header.size_px for path, header in headers.items()}  # each PNG has its DICOM here
    return [
        f"{path}: must have its DICOM file's rows and columns {sizes[path.stem]}, got {grey.shape}; "
        "restore the ground truth"
        for path, grey in levels.items()
        if sizes[path.stem] != grey.shape
    ]


def _label_table() -> np.ndarray:
    """Return the label id of each of the 256 grey levels."""
    table = np.full(256, _NO_LABEL, dtype=np.uint8)
    table[0] = 0
    for label, (first, last) in GREY_RANGES.items():
        table[first : last + 1] = label
    return table


def _unknown_levels(levels: Mapping[Path, np.ndarray]) -> list[str]:
    table = _label_table()
    known = ["0", *(f"{first}-{last}" for first, last in GREY_RANGES.values())]
    unknown = {path: np.unique(grey[table[grey] == _NO_LABEL]).tolist() for path, grey in levels.items()}
    return [
        describe_unknown_values(path, list(map(str, values)), known)
        for path, values in unknown.items()
        if values
    ]
