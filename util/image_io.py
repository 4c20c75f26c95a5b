"""Read and write volumes without losing where they lie in the patient.

The only module that knows SimpleITK's axis order: outside it arrays are `(Z, H, W)` and spacings are
`(z, y, x)` in millimetres.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from util.errors import UserError
from util.files import replaced_file

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 20


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


def read_volume(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a 3D image file.

    Returns:
        The voxels `(Z, H, W)` in the file's own dtype, and their geometry.

    Raises:
        UserError: the file is missing, unreadable, damaged, or not a 3D image.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        image = sitk.ReadImage(str(path))
        _unpacked_bytes(path)
    except (RuntimeError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as an image ({_reason(error)}); restore the file") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(f"{path}: must be a 3D image of single values, got size {image.GetSize()}")
    return sitk.GetArrayFromImage(image), _geometry(image)


def read_geometry(path: Path) -> Geometry:
    """Read a 3D image's geometry alone.

    It is much cheaper than `read_volume`, which says what is raised.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be read as an image ({_reason(error)}); restore the file") from error
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise UserError(f"{path}: must be a 3D image of single values, got size {reader.GetSize()}")
    return _geometry(reader)


def write_volume(path: Path, volume: np.ndarray, geometry: Geometry) -> None:
    """Write a volume `(Z, H, W)` as compressed NIfTI in one step.

    Raises:
        ValueError: the volume's shape is not the geometry's.
        UserError: the file cannot be written.
    """
    if volume.shape != geometry.shape:
        raise ValueError(f"{path}: volume {volume.shape} must have the geometry's shape {geometry.shape}")
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume))
    image.SetSpacing([float(step) for step in reversed(geometry.spacing_mm)])
    image.SetOrigin([float(place) for place in geometry.origin_mm])
    image.SetDirection([float(cosine) for cosine in geometry.direction])
    with replaced_file(path, suffix=".nii.gz") as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            if _unpacked_bytes(temporary) < volume.nbytes:
                raise EOFError("the file is cut off")
        except (RuntimeError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be written ({_reason(error)}); is the disk full?") from error


def _unpacked_bytes(path: Path) -> int:
    """Return a file's length, of a gzip file unpacked.

    Unpacking proves a gzip file's completeness and checksum. ITK tells of neither a file that is cut off,
    when it reads, nor a disk that is full, when it writes.
    """
    with path.open("rb") as file:
        if file.read(2) != _GZIP_MAGIC:
            return path.stat().st_size
    with gzip.open(path) as unpacked:
        return sum(map(len, iter(lambda: unpacked.read(_BLOCK_BYTES), b"")))


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
