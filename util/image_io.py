"""Read and write volumes without losing where they lie in the patient.

The only module that knows SimpleITK's axis order: outside it arrays are `(Z, H, W)` and spacings are
`(z, y, x)` in millimetres.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from util.errors import UserError
from util.files import replaced_file
from util.nifti_files import NiftiFault, read_header, read_voxels

_SKEW_TOLERANCE = 1e-3  # cosines are stored as float32


@dataclass(frozen=True)
class Geometry:
    """Where a volume's grid lies in the patient.

    Attributes:
        shape: `(Z, H, W)` in voxels.
        spacing_mm: distance of neighbouring voxels along `(z, y, x)`.
        origin_mm: the first voxel's place, patient `(x, y, z)`.
        direction: the grid axes' direction cosines, nine numbers in SimpleITK's order.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]

    def same_grid(self, other: "Geometry", *, tolerance_mm: float = 1e-2) -> bool:
        """Tell whether both describe the same voxels (places within `tolerance_mm`)."""
        if self.shape != other.shape or not np.allclose(self.direction, other.direction, atol=1e-3):
            return False
        near = {"rtol": 0.0, "atol": tolerance_mm}
        return np.allclose(self.spacing_mm, other.spacing_mm, **near) and np.allclose(
            self.origin_mm, other.origin_mm, **near
        )

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors of the array's axes.

        `(3, 3)`: columns belong to z, y, x of the array, rows to x, y, z of the patient.
        """
        return np.reshape(self.direction, (3, 3))[:, ::-1]

    def with_axes(self, axes: np.ndarray) -> "Geometry":
        """Return the same with other `axes`, in the form of that property."""
        return replace(self, direction=tuple(float(cosine) for cosine in axes[:, ::-1].ravel()))

    def place_mm(self, index: ArrayLike) -> np.ndarray:
        """Return the patient places of array indices.

        Both are `(..., 3)`: indices (z, y, x), places (x, y, z) in mm.
        """
        return np.asarray(self.origin_mm) + (np.asarray(index) * self.spacing_mm) @ self.axes.T

    def index_at(self, place_mm: ArrayLike) -> np.ndarray:
        """Return the array indices, with fractions, of patient places.

        It is the reverse of `place_mm`.
        """
        offsets = np.asarray(place_mm) - self.origin_mm
        return offsets @ np.linalg.inv(self.axes).T / self.spacing_mm


def read_volume(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a 3D NIfTI file.

    Voxels come from the file's bytes, for ITK turns those that are no numbers into 0.

    Returns:
        The voxels `(Z, H, W)` in the file's own dtype, all finite, and their geometry.

    Raises:
        UserError: the file is missing, unreadable, damaged, not a 3D image, claims more than it holds or
            memory does, or voxels are not finite.
    """
    path = Path(path)
    geometry = read_geometry(path)
    try:
        voxels = read_voxels(path)
    except (NiftiFault, OSError) as error:
        raise _unreadable(path, error) from error
    except MemoryError as error:
        raise UserError(f"{path}: not enough memory to read shape {geometry.shape}") from error
    if voxels.dtype.kind == "f" and (n_bad := voxels.size - np.count_nonzero(np.isfinite(voxels))):
        raise UserError(f"{path}: image must be finite, got {n_bad} NaN or infinite voxels; prepare it again")
    return voxels, geometry


def read_geometry(path: Path) -> Geometry:
    """Read a 3D NIfTI file's geometry alone.

    It is much cheaper than `read_volume`, which says what is raised. Of the voxels nothing is known.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    # Not switched on again, for threads read side by side: nobody could act on ITK's remarks.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        header = read_header(path)
        reader.ReadImageInformation()
    except (NiftiFault, OSError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    geometry = _geometry(reader)
    _check_geometry(path, geometry, shape=header.shape)
    return geometry


def read_slices(files: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
    """Read a DICOM series, one slice a file.

    The caller has sorted the files along the slices' normal and knows them to stand at equal distances:
    SimpleITK would only warn of a gap.

    Args:
        files: at least two.

    Returns:
        The voxels `(Z, H, W)` float32 (each file's rescaling applied), and their geometry: the place of the
        first file's first pixel, and slices that follow each other in the order given.

    Raises:
        UserError: a file cannot be read.
    """
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(path) for path in files])
    # Otherwise the first file decides on a type, which may not hold the others' rescaled values.
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        folder = files[0].parent
        raise UserError(f"{folder}: cannot be read as DICOM ({_reason(error)}); restore the files") from error
    return sitk.GetArrayFromImage(image), _geometry(image)


def write_volume(path: Path, volume: np.ndarray, geometry: Geometry) -> None:
    """Write a volume `(Z, H, W)` as compressed NIfTI in one step.

    Raises:
        ValueError: the volume's shape is not the geometry's.
        UserError: the file cannot be written.
    """
    if volume.shape != geometry.shape:
        raise ValueError(f"{path}: volume {volume.shape} must have the geometry's shape {geometry.shape}")
    image = to_sitk(volume, geometry)
    with replaced_file(path, suffix=".nii.gz") as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            read_voxels(temporary)  # ITK does not tell of a disk that is full
        except (RuntimeError, NiftiFault) as error:
            raise UserError(f"{path}: cannot be written ({_reason(error)}); is the disk full?") from error


def to_sitk(volume: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Copy a volume `(Z, H, W)` into an image of SimpleITK."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume))
    image.SetSpacing([float(step) for step in reversed(geometry.spacing_mm)])
    image.SetOrigin([float(place) for place in geometry.origin_mm])
    image.SetDirection([float(cosine) for cosine in geometry.direction])
    return image


def _check_geometry(path: Path, geometry: Geometry, *, shape: tuple[int, int, int]) -> None:
    axes = geometry.axes
    spacing_mm = np.array(geometry.spacing_mm)
    if geometry.shape != shape:
        fault = f"shape {geometry.shape} instead of {shape}"
    elif not (np.isfinite(spacing_mm).all() and (spacing_mm > 0).all()):
        fault = f"spacing {geometry.spacing_mm}"
    elif not np.isfinite(geometry.origin_mm).all():
        fault = f"origin {geometry.origin_mm}"
    elif not np.allclose(axes.T @ axes, np.eye(3), rtol=0, atol=_SKEW_TOLERANCE):
        fault = f"axes that are not perpendicular, {geometry.direction}"
    else:
        return
    raise _unreadable(path, NiftiFault(fault))


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read as an image ({_reason(error)}); restore the file")


def _geometry(image: sitk.Image | sitk.ImageFileReader) -> Geometry:
    return Geometry(
        shape=tuple(reversed([int(length) for length in image.GetSize()])),
        spacing_mm=tuple(reversed(image.GetSpacing())),
        origin_mm=tuple(image.GetOrigin()),
        direction=tuple(image.GetDirection()),
    )


def _reason(error: Exception) -> str:
    """Take the telling line out of ITK's long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ") if lines else "unknown reason"
