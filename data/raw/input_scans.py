"""Read scans of any supported format, from files or from memory."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from data.label_maps import distinct_values, format_value
from data.raw.dicom import read_header, read_series, series_problems
from data.raw.listing import natural_sort_key
from data.raw.scan_checks import image_problems
from util.errors import UserError, shorten_list
from util.io.image_io import AXIS_DIRECTIONS, FIX_HEADER, PREPARED_ORIENTATION, Geometry, read_raw_volume
from util.io.itk_files import ITK_ENDINGS, image_arrays, read_itk_volume
from util.io.nifti_files import spacing_fault
from util.io.nifti_names import NIFTI_ENDINGS

ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS)
_DICOM_MARK, _DICOM_MARK_OFFSET = b"DICM", 128
_MAX_LABEL = 65535


@dataclass(frozen=True, eq=False)
class InputScan:
    """One scan on its own grid.

    Attributes:
        voxels: `(Z, H, W)`, an integer type or float32.
        geometry: its grid.
        name: for messages.
        path: the file or DICOM folder that it was read from; None for a scan in memory.
        modality: by its DICOM header, such as "MR"; empty if unknown.
    """

    voxels: np.ndarray
    geometry: Geometry
    name: str
    path: Path | None = None
    modality: str = ""


def scan_ending(path: Path) -> str | None:
    """Return the lower-case ending of a readable file's name, such as ".nii.gz"."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)


def list_dicom_files(folder: Path) -> list[Path]:
    """List the DICOM files directly in a folder, in natural order of their names."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return sorted(
        (path for path in files if path.name.upper() != "DICOMDIR" and _is_dicom(path)),
        key=lambda path: natural_sort_key(path.name),
    )


def read_scan(path: Path, *, assume_orientation: str | None = None) -> InputScan:
    """Read a scan: NIfTI, NRRD, MetaImage, or a folder with one DICOM series.

    Args:
        path: the file or folder.
        assume_orientation: of NIfTI files without one; None refuses them.

    Raises:
        UserError: the scan is missing, unreadable, damaged, not 3D, or of an unknown format.
    """
    path = Path(path)
    if path.is_dir():
        return _read_dicom(path)
    ending = scan_ending(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if ending is None:
        if _is_dicom(path):
            raise UserError(f"{path}: is a single DICOM file; give the folder of its series")
        raise UserError(f"{path}: unknown format; must end with {', '.join(ENDINGS)}, or be a DICOM folder")
    if ending in NIFTI_ENDINGS:
        volume = read_raw_volume(path, assume_orientation=assume_orientation, hint=FIX_HEADER)
        return InputScan(*volume, str(path), path)
    return InputScan(*read_itk_volume(path), str(path), path)


def to_scan(source: Any, *, name: str, assume_orientation: str | None = None) -> InputScan:
    """Convert a scan in any form.

    Args:
        source: a path; a SimpleITK or nibabel image; an array `(Z, H, W)` with its spacing `(z, y, x)` in mm
            as a pair (the axes are then assumed to be LPS: rows run to the patient's posterior, columns to
            the left, slices to the head); or an `InputScan`.
        name: of a scan in memory, for messages.
        assume_orientation: see `read_scan`.

    Raises:
        UserError: as `read_scan`, or the source is none of these.
    """
    if isinstance(source, InputScan):
        return source
    if isinstance(source, str | Path):
        return read_scan(Path(source), assume_orientation=assume_orientation)
    if isinstance(source, sitk.Image):
        return InputScan(*image_arrays(source, name=name), name)
    if isinstance(source, nibabel.spatialimages.SpatialImage):
        return InputScan(*image_arrays(_from_nibabel(source, name), name=name), name)
    if isinstance(source, tuple) and len(source) == 2:
        return _from_array(*source, name=name)
    raise UserError(
        f"{name}: must be a path, a SimpleITK or nibabel image, or (array, spacing_mm), got "
        f"{type(source).__name__}"
    )


def check_image(scan: InputScan) -> None:
    """Raise `UserError` if an image has one slice, non-finite voxels or no contrast."""
    problems = image_problems(Path(scan.name), scan.voxels)
    if problems:
        raise UserError(problems[0])


def check_slices(slices: tuple[int, int | None] | None, scan: InputScan) -> tuple[int, int]:
    """Return first and end of a range of slices; `UserError` if it is unusable."""
    first, end = _parse_bounds(slices, name=scan.name)
    n_slices = scan.geometry.shape[0]
    if not 0 <= first < n_slices or (end is not None and end <= first):
        raise UserError(f"{scan.name}: slices={first}:{end or ''} must hold some of its 0 to {n_slices - 1}")
    return first, min(end or n_slices, n_slices)


def _parse_bounds(slices: Any, *, name: str) -> tuple[int, int | None]:
    bounds = (0, None) if slices is None else slices
    try:
        first, end = bounds
        return index(first), None if end is None else index(end)
    except (TypeError, ValueError):
        raise UserError(
            f"{name}: slices must be None or a pair of whole numbers such as (3, 5), the last one excluded, "
            f"got {slices!r}"
        ) from None


def to_label_map(scan: InputScan) -> np.ndarray:
    """Return a mask's voxels as uint16 label ids; `UserError` for other values."""
    values = distinct_values(scan.voxels)
    unusable = [value for value in values if not (0 <= value <= _MAX_LABEL and float(value).is_integer())]
    if unusable:
        text = shorten_list(map(format_value, unusable))
        raise UserError(
            f"{scan.name}: must hold label ids, whole numbers of 0 to {_MAX_LABEL}, got {text}; give the "
            "mask, not the image"
        )
    return scan.voxels.astype(np.uint16)


def _read_dicom(folder: Path) -> InputScan:
    files = list_dicom_files(folder)
    if not files:
        raise UserError(f"{folder}: holds no DICOM file; give a scan's file or the folder of a DICOM series")
    _check_lost_slices(folder, files)
    headers = [read_header(path) for path in files]
    problems = series_problems(headers, folder)
    if problems:
        raise UserError(problems[0])
    return InputScan(*read_series(headers), str(folder), folder, headers[0].modality)


def _check_lost_slices(folder: Path, slices: Sequence[Path]) -> None:
    """Refuse a file that has the name of a slice, but is empty, unreadable or not DICOM.

    Nothing else shows that the first or the last slice of a series is lost. Hidden files, and those with
    other names than the slices have, are ignored.
    """
    endings = {path.suffix.lower() for path in slices if path.suffix[1:].isalpha()}
    forms = {_name_form(path) for path in slices}
    for path in sorted(set(folder.iterdir()) - set(slices)):
        is_named_as_slice = path.suffix.lower() in endings or _name_form(path) in forms
        if is_named_as_slice and not (path.name.startswith(".") or path.is_dir()):
            raise UserError(
                f"{path}: must be DICOM, as the other slices are, {_describe_fault(path)}; restore the "
                "file, or remove it"
            )


def _name_form(path: Path) -> str:
    return re.sub(r"\d+", "0", path.name.lower())


def _describe_fault(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return "got another format" if file.read(1) else "got an empty one"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(_DICOM_MARK_OFFSET)
            return file.read(len(_DICOM_MARK)) == _DICOM_MARK
    except OSError:
        return False


def _from_nibabel(image: nibabel.spatialimages.SpatialImage, name: str) -> sitk.Image:
    """Convert a nibabel image, which counts voxels (x, y, z) and positions in RAS."""
    if image.affine is None:
        raise UserError(f"{name}: orientation unknown (no affine); give the image an affine")
    voxels = np.asanyarray(image.dataobj)
    while voxels.ndim > 3 and voxels.shape[-1] == 1:  # such as a single time point, as in a file
        voxels = voxels[..., 0]
    if voxels.ndim != 3:
        raise UserError(f"{name}: must be a 3D image of single values, got shape {voxels.shape}")
    affine = np.diag([-1.0, -1.0, 1.0]) @ image.affine[:3]
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    if not (np.isfinite(affine).all() and spacing.min() > 0):
        raise UserError(f"{name}: invalid affine; fix the header")
    if voxels.dtype.kind not in "iuf":
        raise UserError(f"{name}: must be a 3D image of single values, got voxels of {voxels.dtype}")
    dtype = np.dtype(np.float32) if voxels.dtype.kind == "f" else voxels.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):  # overflow gives infinity, which the checks report
        converted = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T, dtype))
    converted.SetSpacing(spacing.tolist())
    converted.SetOrigin(affine[:, 3].tolist())
    converted.SetDirection((affine[:, :3] / spacing).ravel().tolist())
    return converted


def _from_array(voxels: Any, spacing_mm: Any, *, name: str) -> InputScan:
    voxels = np.asarray(voxels)
    if voxels.ndim != 3 or voxels.dtype.kind not in "biuf":
        raise UserError(f"{name}: must be a real array (Z, H, W), got shape {voxels.shape} of {voxels.dtype}")
    try:
        spacing = tuple(float(step) for step in spacing_mm)
    except (TypeError, ValueError):
        spacing = ()
    if len(spacing) != 3:
        raise UserError(f"{name}: spacing must be three numbers (z, y, x) in mm, got {spacing_mm!r}")
    fault = spacing_fault(spacing)
    if fault:
        raise UserError(f"{name}: {fault} (z, y, x)")
    axes = np.stack([AXIS_DIRECTIONS[letter] for letter in PREPARED_ORIENTATION], axis=1)
    geometry = Geometry(voxels.shape, spacing, (0.0, 0.0, 0.0), tuple(axes.ravel().astype(float).tolist()))
    if voxels.dtype.kind == "b":
        voxels = voxels.astype(np.uint8)
    elif voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            voxels = voxels.astype(np.float32)
    return InputScan(voxels, geometry, name)
