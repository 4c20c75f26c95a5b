"""Read and write NRRD and MetaImage volumes with SimpleITK."""

import math
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from util.errors import UserError
from util.io.files import atomic_write
from util.io.image_io import Geometry, error_reason, sitk_geometry, to_sitk
from util.io.itk_headers import describe_meta_fault, describe_nrrd_fault
from util.io.nifti_files import MAX_VOXELS, SKEW_TOLERANCE, spacing_fault

ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
_NRRD_ENDINGS = (".nrrd", ".nhdr")


def read_itk_volume(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a 3D scalar volume in NRRD or MetaImage format.

    Returns:
        The voxels `(Z, H, W)`, an integer type or float32 that may hold NaN and infinity, and their geometry.

    Raises:
        UserError: the file is missing, damaged, not 3D, has several values per voxel, an implausible spacing,
            axes that are not perpendicular, or a header without orientation or spacing, or in
            another unit than mm.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_header(path, reader)
        image = reader.Execute()
    except RuntimeError as error:
        reason = error_reason(error)
        raise UserError(f"{path}: cannot be read as an image ({reason}); restore the file") from error
    return image_arrays(image, name=str(path))


def image_arrays(image: sitk.Image, *, name: str) -> tuple[np.ndarray, Geometry]:
    """Convert a SimpleITK image to voxels `(Z, H, W)` and their geometry.

    Floating point voxels become float32. `name` starts the messages; raises as `read_itk_volume`.
    """
    _check_kind(name, image.GetSize(), image.GetNumberOfComponentsPerPixel())
    voxels = sitk.GetArrayFromImage(image)
    if voxels.dtype.kind not in "iuf":
        raise UserError(f"{name}: must be a 3D image of single values, got voxels of {voxels.dtype}")
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # overflow gives infinity, which the checks report
            voxels = voxels.astype(np.float32, copy=False)
    geometry = sitk_geometry(image)
    fault = spacing_fault(geometry.spacing_mm)
    if fault:
        raise UserError(f"{name}: {fault} (z, y, x); fix the header")
    if not np.allclose(geometry.axes.T @ geometry.axes, np.eye(3), rtol=0, atol=SKEW_TOLERANCE):
        raise UserError(f"{name}: its axes are not perpendicular; resample the image, or fix the header")
    return voxels, geometry


def write_itk_volume(path: Path, volume: np.ndarray, geometry: Geometry) -> None:
    """Write a volume `(Z, H, W)` compressed and atomically.

    `path` ends with .nrrd or .mha. Raises `UserError` if the file cannot be written.
    """
    image = to_sitk(volume, geometry)
    with atomic_write(path, suffix=path.suffix) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            sitk.ReadImage(str(temporary))  # ITK does not report a full disk
        except RuntimeError as error:
            reason = error_reason(error)
            raise UserError(f"{path}: cannot be written ({reason}); is the disk full?") from error


def _check_header(path: Path, reader: sitk.ImageFileReader) -> None:
    _check_kind(str(path), reader.GetSize(), reader.GetNumberOfComponents())
    # ITK allocates what a header claims.
    if math.prod(reader.GetSize()) > MAX_VOXELS:
        raise UserError(f"{path}: header claims a size of {reader.GetSize()}; restore the file")
    is_nrrd = path.suffix.lower() in _NRRD_ENDINGS
    fault = describe_nrrd_fault(path) if is_nrrd else describe_meta_fault(path)
    if fault:
        raise UserError(f"{path}: {fault}; fix the header")


def _check_kind(name: str, size: tuple[int, ...], n_components: int) -> None:
    if len(size) != 3 or n_components != 1:
        values = f" with {n_components} values per voxel" if n_components != 1 else ""
        raise UserError(
            f"{name}: must be a 3D image of single values, got size {tuple(size)}{values}; split or convert "
            "it"
        )
