"""Custom datasets: NIfTI files and a `dataset.json`.

The files lie in nnU-Net's folders, or are named `image_<id>` and `label_<id>`. Scans without labels are used
for training alone.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data.custom_spec import DATASET_JSON, read_dataset_json
from data.raw.listing import list_files, natural_sort_key
from data.raw.pairs import group_files, inspect_pair, labels_without_image, make_scan, orient_scans
from data.raw.raw_scans import RawDataset, RawScan
from data.raw.scan_checks import fold_remarks
from data.specs import CustomDataset
from util.errors import UserError, shorten_list
from util.io.grids import orient_slices
from util.io.nifti_names import NIFTI_ENDINGS, nifti_ending, nifti_stem

# Formats that may hold scans but are not read, which is remarked on.
_OTHER_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img", ".dcm", ".mgz", ".npy", ".npz")
_OTHER_ENDINGS += (".nii.bz2", ".nii.zst")
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_N_NAMED = 20
_PLANES = dict.fromkeys("SI", "axial") | dict.fromkeys("AP", "coronal") | dict.fromkeys("LR", "sagittal")


@dataclass(frozen=True, order=True)
class _Case:
    """An nnU-Net case; imagesTr sorts before imagesTs, names in natural order."""

    folder_position: int
    order: list[tuple[int, int, str]] = field(init=False, hash=False, repr=False)
    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", natural_sort_key(self.name))

    def __str__(self) -> str:
        return self.name


@dataclass
class _Files:
    """Files by scan, with problems and unused files."""

    images: dict[object, Path] = field(default_factory=dict)
    labels: dict[object, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)


def find_custom(root: Path, name: str) -> RawDataset:
    """Find the scans of a folder that holds a `dataset.json`.

    In nnU-Net's folders (`imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`) ids number the cases from 0
    in natural order of their names; those of `imagesTs`, which train without labels, come last. Files named
    `image_<id>.nii.gz` and `label_<id>.nii.gz` lie beside `dataset.json` or else in folders below it.

    Args:
        root: the folder.
        name: of the dataset.

    Raises:
        UserError: `dataset.json` is missing or invalid, there are no images, they are in both forms, or none
            has labels.
    """
    path = _spec_path(root)
    dataset, folder = read_dataset_json(path, name=name), path.parent
    files, scans = _find_scans(folder, dataset)
    assume_orientation = dataset.preparation.assume_orientation
    if dataset.preparation.orientation is None:
        scans = orient_scans(
            scans,
            lambda grids: {scan_id: orient_slices(grid) for scan_id, grid in grids.items()},
            assume_orientation=assume_orientation,
        )
    return RawDataset(
        spec=dataset.spec,
        preparation=dataset.preparation,
        scans=tuple(scans),
        inspect_scan=partial(inspect_pair, needs_labels=False, assume_orientation=assume_orientation),
        problems=tuple(files.problems),
        remarks=tuple(_remarks(scans, files, folder)),
        custom=dataset,
        custom_folder=folder,
    )


def _spec_path(root: Path) -> Path:
    """Find `dataset.json` in a folder, or the only one below it."""
    if (root / DATASET_JSON).is_file():
        return root / DATASET_JSON
    candidates = [path for path in list_files(root) if path.name == DATASET_JSON]
    if len(candidates) != 1:
        text = f"{len(candidates)} below it" if candidates else "none"
        raise UserError(
            f"{root}: a custom dataset must come with a {DATASET_JSON}, got {text}; write one (see "
            "docs/data.md) or give the folder that holds it"
        )
    return candidates[0]


def _find_scans(folder: Path, dataset: CustomDataset) -> tuple[_Files, list[RawScan]]:
    """Find the files of either form, and number their scans."""
    beside = sorted(folder.iterdir())
    is_beside = bool(_numbered_files(beside, dataset).images)
    if (folder / "imagesTr").is_dir():
        if is_beside:
            raise UserError(
                f"{folder}: holds both imagesTr and image_<id>{dataset.file_ending}; remove one of them"
            )
        files = _nnunet_files(folder, dataset)
        files.unused += filter(_looks_like_scan, beside)
        keys = {position: (case, case.name) for position, case in enumerate(sorted(files.images))}
    else:
        files = _numbered_files(beside if is_beside else list_files(folder), dataset)
        keys = {number: (number, f"image_{number}") for number in sorted(files.images)}
    scans = [
        make_scan(scan_id, scan_name, image=files.images[key], label=files.labels.get(key))
        for scan_id, (key, scan_name) in keys.items()
    ]
    if not scans:
        raise UserError(
            f"{folder}: must hold imagesTr/<case>_0000{dataset.file_ending} or "
            f"image_<id>{dataset.file_ending}, got neither; {(files.problems or ['put the images there'])[0]}"
        )
    if not any(scan.label_files for scan in scans):
        unlabelled = f"{folder}: must hold the labels of at least one scan, got none; annotate one"
        raise UserError("\n".join([*files.problems, unlabelled]))
    return files, scans


def _remarks(scans: Sequence[RawScan], files: _Files, folder: Path) -> list[str]:
    unlabelled = [scan.name for scan in scans if not scan.label_files]
    remarks = _plane_remarks(scans) + fold_remarks(len(scans) - len(unlabelled), n_unlabelled=len(unlabelled))
    if unlabelled:
        names = shorten_list(unlabelled, n_max=_N_NAMED)
        remarks.append(f"{len(unlabelled)} scan(s) without labels, for training alone: {names}")
    if files.unused:
        names = shorten_list((path.relative_to(folder) for path in files.unused), n_max=_N_NAMED)
        remarks.append(f"{folder}: not used, although it may be a scan: {names}")
    return remarks


def _plane_remarks(scans: Sequence[RawScan]) -> list[str]:
    """Remark on scans whose slices are stacked along different patient axes."""
    counted = Counter(_PLANES[scan.orientation[2]] for scan in scans if scan.orientation).most_common()
    if len(counted) < 2:
        return []
    counts = ", ".join(f"{n_scans} {plane}" for plane, n_scans in counted)
    return [
        f"slices of {counts} scans in one set: support and query slices will not correspond; set orientation "
        f"in {DATASET_JSON}, or take the others out"
    ]


def _nnunet_files(folder: Path, dataset: CustomDataset) -> _Files:
    """Find nnU-Net's cases."""
    files = _Files()
    for position, images_name in enumerate(("imagesTr", "imagesTs")):
        valid = {}
        for path in _scans_in(folder / images_name, files, dataset):
            match = _CHANNEL.fullmatch(nifti_stem(path))
            if match is None:
                hint = f"images must be named <case>_0000{dataset.file_ending}; rename it"
                files.problems.append(f"{path}: {hint}")
            elif match[2] != "0000":
                hint = "only the channel _0000 is read; merge the channels or remove this file"
                files.problems.append(f"{path}: {hint}")
            else:
                valid[path] = _Case(position, match[1])
        grouped, faults = group_files(valid, valid.get)
        files.images |= grouped
        files.problems += faults
    labels = _scans_in(folder / "labelsTr", files, dataset)
    files.labels, faults = group_files(labels, lambda path: _Case(0, nifti_stem(path)))
    files.problems += faults + labels_without_image(files.images, files.labels)
    if (folder / "labelsTs").is_dir():
        files.unused += filter(_looks_like_scan, sorted((folder / "labelsTs").iterdir()))
    in_training, in_test = ({case.name for case in files.images if case.folder_position == i} for i in (0, 1))
    files.problems += [
        f"{files.images[_Case(1, name)]}: must not have the name of a case in imagesTr; rename it"
        for name in sorted(in_training & in_test)
    ]
    return files


def _numbered_files(paths: Iterable[Path], dataset: CustomDataset) -> _Files:
    files, scans = _Files(), {"image": [], "label": []}
    for path in filter(_looks_like_scan, paths):
        match = re.fullmatch(r"(image|label)_(\d+)", nifti_stem(path))
        if match and nifti_ending(path):
            scans[match[1]].append(path)
        else:
            files.unused.append(path)
    for kind, kind_paths in scans.items():
        files.problems += _wrong_endings(kind_paths, dataset)
        right = [path for path in kind_paths if nifti_ending(path) == dataset.file_ending]
        grouped, faults = group_files(right, lambda path: int(nifti_stem(path).partition("_")[2]))
        setattr(files, f"{kind}s", grouped)
        files.problems += faults
    files.problems += labels_without_image(files.images, files.labels)
    return files


def _scans_in(folder: Path, files: _Files, dataset: CustomDataset) -> list[Path]:
    """List a folder's NIfTI files, and note those of other endings in `files`."""
    entries = (
        sorted(folder.iterdir(), key=lambda path: natural_sort_key(path.name)) if folder.is_dir() else []
    )
    scans = [path for path in entries if _looks_like_scan(path)]
    files.unused += [path for path in scans if not nifti_ending(path)]
    with_ending = [path for path in scans if nifti_ending(path)]
    files.problems += _wrong_endings(with_ending, dataset)
    return [path for path in with_ending if nifti_ending(path) == dataset.file_ending]


def _wrong_endings(files: list[Path], dataset: CustomDataset) -> list[str]:
    return [
        f"{path}: must end with {dataset.file_ending}, which file_ending of {DATASET_JSON} says; "
        "rename it or change file_ending"
        for path in files
        if nifti_ending(path) != dataset.file_ending
    ]


def _looks_like_scan(path: Path) -> bool:
    name, endings = path.name.lower(), (*NIFTI_ENDINGS, *_OTHER_ENDINGS)
    return not name.startswith(".") and name.endswith(endings) and not path.is_dir()
