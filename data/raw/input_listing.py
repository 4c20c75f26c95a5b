"""Find the scans that a file, a folder or a pattern names."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.raw.input_scans import ENDINGS, list_dicom_files, scan_ending
from data.raw.listing import natural_sort_key
from util.errors import UserError


def find_inputs(patterns: Sequence[str]) -> list[Path]:
    """List the scans that paths and patterns name, each once, in natural order.

    A folder stands for the scan files directly in it, and for each DICOM series: its own files, or those of a
    folder directly in it.

    Raises:
        UserError: a path does not exist, a pattern matches nothing, or a folder holds no scan; all such
            entries are reported, a line each.
    """
    inputs: dict[Path, None] = {}
    problems = []
    for pattern in patterns:
        try:
            inputs.update(dict.fromkeys(_expand(pattern)))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return list(inputs)


def name_outputs(paths: Iterable[Path], *, dicom_ending: str = ".nii.gz") -> dict[Path, str]:
    """Choose the file name of each scan's result: the scan's name.

    The ending is that of the format to write: `.nii.gz` for NIfTI, `.nrrd` or `.mha` for these formats, and
    `dicom_ending` for DICOM series. Scans of one name in different folders get the names of the folders that
    tell them apart, as `patient_1_t2.nii.gz`.

    Raises:
        UserError: two scans would share a result.
    """
    paths = list(paths)
    absolute = {path: path.absolute().parts[1:] for path in paths}
    n_parts = dict.fromkeys(paths, 1)
    for depth in range(2, max((len(parts) for parts in absolute.values()), default=0) + 1):
        names = [_output_name(path, absolute[path][-n_parts[path] :], dicom_ending) for path in paths]
        shared = [path for path, name in zip(paths, names, strict=True) if names.count(name) > 1]
        if not shared:
            break
        n_parts |= dict.fromkeys(shared, depth)
    named: dict[str, Path] = {}
    for path in paths:
        name = _output_name(path, absolute[path][-n_parts[path] :], dicom_ending)
        if name in named:
            raise UserError(f"{path}: would be written as {name}, as {named[name]} is; rename one of them")
        named[name] = path
    return {path: name for name, path in named.items()}


def _output_name(path: Path, parts: Sequence[str], dicom_ending: str) -> str:
    stem = "_".join(parts)
    if path.is_dir():
        return stem + dicom_ending
    ending = scan_ending(path)
    if ending is not None:
        stem = stem[: -len(ending)]
    return stem + {".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}.get(ending, ".nii.gz")


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return _scans_in(path)
    if path.exists():
        return [path]
    if not glob.has_magic(pattern):
        raise UserError(f"query={pattern}: no such file or folder; give scans, a folder or a pattern")
    matches = sorted(map(Path, glob.glob(pattern, recursive=True)), key=_natural)
    scans = [match for match in matches if match.is_dir() or scan_ending(match)]
    inputs = [scan for match in scans for scan in (_scans_in(match) if match.is_dir() else [match])]
    if not inputs:
        raise UserError(f"query={pattern}: matches {len(matches)} files or folders, none of them a scan")
    return inputs


def _scans_in(folder: Path) -> list[Path]:
    try:
        entries = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_natural)
        inputs = [path for path in entries if path.is_file() and scan_ending(path)]
        inputs += [
            candidate for candidate in (folder, *filter(Path.is_dir, entries)) if list_dicom_files(candidate)
        ]
    except OSError as error:
        raise UserError(f"query={folder}: cannot be listed ({error.strerror})") from error
    if not inputs:
        raise UserError(
            f"query={folder}: holds no scan ({', '.join(ENDINGS)}, or DICOM files); give their folder"
        )
    return inputs


def _natural(path: Path) -> list[list[tuple[int, int, str]]]:
    return [natural_sort_key(part) for part in path.parts]
