"""Own data: NIfTI files and a `dataset.json`.

The files lie in nnU-Net's folders, or are called `image_<id>` and `label_<id>`.
"""

import re
from pathlib import Path

from data.own_spec import OwnDataset, read_dataset_json
from data.raw.checks import fold_remarks
from data.raw.listing import by_number, list_files
from data.raw.pairs import as_scan, group_files, inspect_pair, without_image
from data.raw.records import FoundDataset, RawScan
from util.errors import UserError

SPEC_FILE = "dataset.json"
_ENDINGS = (".nii.gz", ".nii")
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def find_own(root: Path) -> FoundDataset:
    """Find the scans of a folder that holds a `dataset.json`.

    In nnU-Net's folders (`imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`) ids count the cases from 0,
    in the order of their names, numbers in these by value. `image_<id>.nii.gz` and `label_<id>.nii.gz` have
    theirs; they lie beside `dataset.json` or, where none does, in folders below.

    Raises:
        UserError: `dataset.json` is missing or wrong, or there are no images, or they are in both forms.
    """
    own = read_dataset_json(_spec_path(root))
    folder = _spec_path(root).parent
    beside = _numbered(sorted(folder.iterdir()), "image", own)[0]
    if (folder / "imagesTr").is_dir():
        if beside:
            raise UserError(
                f"{folder}: holds both imagesTr and image_<id>{own.file_ending}; take one of them out"
            )
        scans, problems = _nnunet_scans(folder, own)
    else:
        scans, problems = _numbered_scans(sorted(folder.iterdir()) if beside else list_files(folder), own)
    if not scans:
        raise UserError(
            f"{folder}: must hold imagesTr/<case>_0000{own.file_ending} or image_<id>{own.file_ending}, got "
            f"neither; {problems[0] if problems else 'put the images there'}"
        )
    return FoundDataset(
        spec=own.spec,
        preparation=own.preparation,
        scans=tuple(scans),
        inspect_scan=inspect_pair,
        problems=tuple(problems),
        remarks=tuple(fold_remarks(len(scans))),
    )


def _spec_path(root: Path) -> Path:
    """Find `dataset.json` in a folder, or the only one below it, as in an archive's top folder."""
    if (root / SPEC_FILE).is_file():
        return root / SPEC_FILE
    below = [path for path in list_files(root) if path.name == SPEC_FILE]
    if len(below) != 1:
        found = f"{len(below)} below it" if below else "none"
        raise UserError(
            f"{root}: own data must come with a {SPEC_FILE}, got {found}; write one (see the README) or "
            "give the folder that holds it"
        )
    return below[0]


def _nnunet_scans(folder: Path, own: OwnDataset) -> tuple[list[RawScan], list[str]]:
    image_files, label_files = _in_folder(folder / "imagesTr"), _in_folder(folder / "labelsTr")
    channels = {path: _CHANNEL.fullmatch(_stem(path)) for path in image_files}
    problems = _wrong_endings([*image_files, *label_files], own)
    problems += [
        f"{path}: images must be named <case>_0000{own.file_ending}; rename it"
        for path, match in channels.items()
        if match is None
    ]
    problems += [
        f"{path}: only one channel is read, the files named _0000; merge the channels or take this file out"
        for path, match in channels.items()
        if match and match[2] != "0000"
    ]
    good = {path: match[1] for path, match in channels.items() if match and match[2] == "0000"}
    images, image_faults = group_files(image_files, lambda path: _if_ending(path, own, good.get(path)))
    labels, label_faults = group_files(label_files, lambda path: _if_ending(path, own, _stem(path)))
    scans = [
        as_scan(position, case, image=images[case], label=labels.get(case))
        for position, case in enumerate(sorted(images, key=by_number))
    ]
    return scans, [*problems, *image_faults, *label_faults, *without_image(images, labels)]


def _numbered_scans(files: list[Path], own: OwnDataset) -> tuple[list[RawScan], list[str]]:
    images, image_faults = _numbered(files, "image", own)
    labels, label_faults = _numbered(files, "label", own)
    scans = [
        as_scan(number, f"image_{number}", image=images[number], label=labels.get(number))
        for number in sorted(images)
    ]
    return scans, [*image_faults, *label_faults, *without_image(images, labels)]


def _numbered(files: list[Path], kind: str, own: OwnDataset) -> tuple[dict[int, Path], list[str]]:
    pattern = re.compile(rf"{kind}_(\d+)")

    def number(path: Path) -> int | None:
        match = pattern.fullmatch(_stem(path))
        return int(match[1]) if match and _ending(path) else None

    chosen = [path for path in files if number(path) is not None]
    grouped, problems = group_files([path for path in chosen if _ending(path) == own.file_ending], number)
    return grouped, [*_wrong_endings(chosen, own), *problems]


def _in_folder(folder: Path) -> list[Path]:
    """List a folder's NIfTI files; none where it is missing."""
    entries = sorted(folder.iterdir(), key=lambda path: by_number(path.name)) if folder.is_dir() else []
    return [path for path in entries if _ending(path) and not path.name.startswith(".")]


def _wrong_endings(files: list[Path], own: OwnDataset) -> list[str]:
    return [
        f"{path}: must end with {own.file_ending}, which file_ending of {SPEC_FILE} says; rename it or "
        "change file_ending"
        for path in files
        if _ending(path) != own.file_ending
    ]


def _if_ending(path: Path, own: OwnDataset, case: str | None) -> str | None:
    return case if _ending(path) == own.file_ending else None


def _ending(path: Path) -> str | None:
    return next((ending for ending in _ENDINGS if path.name.endswith(ending)), None)


def _stem(path: Path) -> str:
    return path.name.removesuffix(_ending(path) or "")
