"""Read and write volumes together with their geometry.

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
from util.io.files import atomic_write
from util.io.nifti_files import NiftiHeader, read_header, read_voxels
from util.remarks import remark

# Unit vectors in LPS patient coordinates (x, y, z).
AXIS_DIRECTIONS = {
    "R": (-1, 0, 0),
    "L": (1, 0, 0),
    "A": (0, -1, 0),
    "P": (0, 1, 0),
    "I": (0, 0, -1),
    "S": (0, 0, 1),
}
# The way out for a file without qform and sform.
FIX_HEADER = "set qform or sform in its header"
FIX_OR_ASSUME = (
    f'{FIX_HEADER}, or for a custom dataset add "assume_orientation": "RAS" (or the correct one) to '
    "dataset.json"
)
PREPARED_ORIENTATION = "LPS"  # of prepared volumes without an affine, as ITK assumes


@dataclass(frozen=True)
class Geometry:
    """Geometry of a volume's grid in patient space.

    Attributes:
        shape: `(Z, H, W)` in voxels.
        spacing_mm: voxel spacing along `(z, y, x)`.
        origin_mm: position of the first voxel, patient `(x, y, z)`.
        direction: the grid axes' direction cosines, nine numbers in SimpleITK's order.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]

    def same_grid(self, other: "Geometry", *, tolerance_mm: float = 1e-2) -> bool:
        """Return whether both describe the same voxels (positions within `tolerance_mm`)."""
        if self.shape != other.shape or not np.allclose(self.direction, other.direction, atol=1e-3):
            return False
        near = {"rtol": 0.0, "atol": tolerance_mm}
        return np.allclose(self.spacing_mm, other.spacing_mm, **near) and np.allclose(
            self.origin_mm, other.origin_mm, **near
        )

    @property
    def axes(self) -> np.ndarray:
        """Direction cosines `(3, 3)`: columns z, y, x (array), rows x, y, z (patient)."""
        return np.reshape(self.direction, (3, 3))[:, ::-1]

    def with_axes(self, axes: np.ndarray) -> "Geometry":
        """Return a copy with other `axes`, in the layout of that property."""
        return replace(self, direction=tuple(float(cosine) for cosine in axes[:, ::-1].ravel()))

    def position_mm(self, index: ArrayLike) -> np.ndarray:
        """Convert array indices to patient positions.

        Both are `(..., 3)`: indices (z, y, x), positions (x, y, z) in mm.
        """
        return np.asarray(self.origin_mm) + (np.asarray(index) * self.spacing_mm) @ self.axes.T

    def index_at(self, position_mm: ArrayLike) -> np.ndarray:
        """Convert positions to fractional array indices; inverse of `position_mm`."""
        offsets = np.asarray(position_mm) - self.origin_mm
        return offsets @ np.linalg.inv(self.axes).T / self.spacing_mm


def read_volume(path: Path, *, needs_orientation: bool = True) -> tuple[np.ndarray, Geometry]:
    """Read a prepared NIfTI volume.

    Args:
        path: the file.
        needs_orientation: whether to remark on a header without an affine, for which LPS is assumed.

    Returns:
        The voxels `(Z, H, W)` in the file's dtype, all finite, and their geometry.

    Raises:
        UserError: the file is missing, unreadable, damaged, not a 3D image, contradictory, larger than the
            file or the memory, or holds non-finite voxels.
    """
    path = Path(path)
    header = read_header(path)
    voxels = read_voxels(path, header)
    if voxels.dtype.kind == "f" and (n_bad := voxels.size - np.count_nonzero(np.isfinite(voxels))):
        raise UserError(f"{path}: image must be finite, got {n_bad} NaN or infinite voxels; prepare it again")
    return voxels, _prepared_geometry(path, header, needs_orientation=needs_orientation)


def read_geometry(path: Path, *, needs_orientation: bool = True) -> Geometry:
    """Read a prepared volume's geometry without voxels; raises as `read_volume`."""
    path = Path(path)
    return _prepared_geometry(path, read_header(path), needs_orientation=needs_orientation)


def read_raw_volume(
    path: Path, *, assume_orientation: str | None = None, hint: str = FIX_OR_ASSUME
) -> tuple[np.ndarray, Geometry]:
    """Read a NIfTI volume from an external source.

    Args:
        path: the file.
        assume_orientation: axis codes (x, y, z), such as "RAS", for a header without an affine; None refuses
            such a file.
        hint: the way out for a file that is refused for this reason.

    Returns:
        The voxels `(Z, H, W)`, an integer type or float32 that may hold NaN and infinity, and their geometry.

    Raises:
        UserError: as `read_volume`, except for non-finite voxels; or the orientation is unknown.
    """
    path = Path(path)
    header = read_header(path)
    geometry = _raw_geometry(path, header, assume_orientation, hint)
    voxels = read_voxels(path, header, allow_padding=True)
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # overflow gives infinity, which the checks report
            voxels = voxels.astype(np.float32, copy=False)
    return voxels, geometry


def read_raw_geometry(path: Path, *, assume_orientation: str | None = None) -> Geometry:
    """Read the geometry of a volume for `read_raw_volume`, without its voxels."""
    return _raw_geometry(Path(path), read_header(Path(path)), assume_orientation, FIX_OR_ASSUME)


def read_slices(files: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
    """Read a DICOM series of one slice per file.

    The files must be sorted along the slice normal and equidistant: SimpleITK only warns about gaps.

    Args:
        files: at least two.

    Returns:
        The voxels `(Z, H, W)` float32, rescaled per file, and their geometry.

    Raises:
        UserError: a file cannot be read.
    """
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(path) for path in files])
    # By default the first file sets the type, which may not hold the rescaled values of the others.
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        folder = files[0].parent
        raise UserError(
            f"{folder}: cannot be read as DICOM ({error_reason(error)}); restore the files"
        ) from error
    return sitk.GetArrayFromImage(image), sitk_geometry(image)


def write_volume(path: Path, volume: np.ndarray, geometry: Geometry) -> None:
    """Write a volume `(Z, H, W)` as compressed NIfTI atomically.

    Raises:
        ValueError: the volume's shape is not the geometry's.
        UserError: the file cannot be written.
    """
    if volume.shape != geometry.shape:
        raise ValueError(f"{path}: volume shape {volume.shape} must equal the geometry's {geometry.shape}")
    image = to_sitk(volume, geometry)
    with atomic_write(path, suffix=".nii.gz") as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            read_voxels(temporary, read_header(temporary))  # ITK does not report a full disk
        except (RuntimeError, UserError) as error:
            raise UserError(
                f"{path}: cannot be written ({error_reason(error)}); is the disk full?"
            ) from error


def to_sitk(volume: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Convert a volume `(Z, H, W)` to a SimpleITK image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume))
    image.SetSpacing([float(step) for step in reversed(geometry.spacing_mm)])
    image.SetOrigin([float(mm) for mm in geometry.origin_mm])
    image.SetDirection([float(cosine) for cosine in geometry.direction])
    return image


def _prepared_geometry(path: Path, header: NiftiHeader, *, needs_orientation: bool) -> Geometry:
    if header.affine is None and needs_orientation:
        remark(
            f"{path.parent}: volumes without orientation (qform_code and sform_code are 0), "
            f"{PREPARED_ORIENTATION} assumed"
        )
    return _grid_geometry(header, PREPARED_ORIENTATION)


def _raw_geometry(path: Path, header: NiftiHeader, assume_orientation: str | None, hint: str) -> Geometry:
    if header.affine is None and assume_orientation is None:
        raise UserError(f"{path}: orientation unknown (qform_code and sform_code are 0); {hint}")
    return _grid_geometry(header, assume_orientation)


def _grid_geometry(header: NiftiHeader, orientation: str | None) -> Geometry:
    """Return the geometry of a header; without an affine, the origin is 0 and the orientation assumed."""
    axes, origin_mm = np.eye(3), np.zeros(3)
    if header.affine is None:
        axes = np.stack([AXIS_DIRECTIONS[letter] for letter in orientation], axis=1)
    else:
        affine = np.diag([-1.0, -1.0, 1.0]) @ header.affine[:3]  # NIfTI's RAS to LPS
        axes, origin_mm = affine[:, :3] / np.linalg.norm(affine[:, :3], axis=0), affine[:, 3]
    return Geometry(
        shape=tuple(reversed(header.shape)),
        spacing_mm=tuple(reversed(header.spacing_mm)),
        origin_mm=tuple((origin_mm + 0.0).tolist()),
        direction=tuple((axes + 0.0).ravel().tolist()),
    )


def sitk_geometry(image: sitk.Image) -> Geometry:
    """Return the geometry of a 3D SimpleITK image."""
    return Geometry(
        shape=tuple(reversed([int(length) for length in image.GetSize()])),
        spacing_mm=tuple(reversed(image.GetSpacing())),
        origin_mm=tuple(image.GetOrigin()),
        direction=tuple(image.GetDirection()),
    )


def error_reason(error: Exception) -> str:
    """Return the informative line of ITK's long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ") if lines else "unknown reason"
