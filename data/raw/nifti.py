"""Read raw NIfTI files, and notice what SimpleITK mends in silence.

SimpleITK reads a plain file that is cut off, turns values that are no numbers into 0, and puts 1 mm where
a spacing is 0. The voxels therefore come from the file's bytes; the geometry comes from SimpleITK, as
everywhere.
"""

import gzip
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError

from util.errors import UserError
from util.image_io import Geometry, read_geometry

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_BYTES = 348
_MAGIC_PLACE, _MAGIC = 344, b"n+1\0"


def read_nifti(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a NIfTI volume with its scaling applied.

    Returns:
        The voxels `(Z, H, W)`, an integer type or float32, in which infinite values and values that are no
        numbers are kept; and their geometry.

    Raises:
        UserError: the file is missing, empty, no NIfTI, cut off or damaged, not 3D, not of single real
            values, or its spacing or orientation cannot be used.
    """
    content = _unpacked(path)
    image = _parsed(path, content)
    voxels = image.dataobj
    needed = voxels.offset + int(np.prod(image.shape, dtype=object)) * voxels.dtype.itemsize
    if len(content) < needed:
        raise UserError(
            f"{path}: must hold {needed} bytes for its shape {image.shape}, got {len(content)}: "
            "it is cut off; restore the file"
        )
    return _scaled(voxels), _geometry(path)


def _unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    if not content:
        raise UserError(f"{path}: must be a NIfTI file, got an empty one; restore the file")
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: must be a whole gzip file ({error}); restore the file") from error


def _parsed(path: Path, content: bytes) -> nibabel.Nifti1Image:
    """Read and check the header alone; voxels stay bytes."""
    _check_magic(path, content)
    # Before nibabel looks at it, which turns 0 into 1.
    spacing = nibabel.Nifti1Header(content[:_HEADER_BYTES], check=False)["pixdim"][1:4]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        found = [round(float(step), 4) for step in spacing]
        raise UserError(f"{path}: spacing must be above 0 mm along x, y, z, got {found}; mend the header")
    try:
        with LoggingOutputSuppressor():  # it remarks on what it mends
            image = nibabel.Nifti1Image.from_bytes(content)
    except (HeaderDataError, ImageFileError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else "damaged"
        raise UserError(f"{path}: its NIfTI header cannot be read ({reason}); restore the file") from error
    if len(image.shape) != 3 or min(image.shape) < 1:
        raise UserError(
            f"{path}: must be a 3D volume, got shape {image.shape}; split it into one file per volume"
        )
    if image.dataobj.dtype.kind not in "iuf":
        raise UserError(f"{path}: must hold single real values, got {image.dataobj.dtype}; convert it")
    return image


def _check_magic(path: Path, content: bytes) -> None:
    """Refuse what is no NIfTI-1 in one file; SimpleITK reads no NIfTI-2."""
    lengths = {struct.unpack(order + "i", content[:4])[0] for order in "<>"} if len(content) >= 4 else set()
    if _HEADER_BYTES in lengths and len(content) < _HEADER_BYTES:
        raise UserError(
            f"{path}: its header must hold {_HEADER_BYTES} bytes, got {len(content)}; restore the file"
        )
    if _HEADER_BYTES not in lengths or content[_MAGIC_PLACE : _MAGIC_PLACE + len(_MAGIC)] != _MAGIC:
        raise UserError(
            f"{path}: must be a NIfTI-1 file (header and voxels in one .nii or .nii.gz), begins with "
            f"{content[:4]!r}; restore or convert the file"
        )


def _geometry(path: Path) -> Geometry:
    """Read the geometry; SimpleITK's warnings, which nobody could act on, are not printed meanwhile."""
    warnings_shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return read_geometry(path)
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warnings_shown)


def _scaled(voxels: nibabel.arrayproxy.ArrayProxy) -> np.ndarray:
    """Apply the header's slope and intercept, and turn `(x, y, z)` into `(z, y, x)`."""
    stored = np.asarray(voxels.get_unscaled()).transpose()
    stored = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("="))
    slope, intercept = voxels.slope, voxels.inter
    if stored.dtype.kind != "f" and (slope, intercept) == (1, 0):
        return stored
    with np.errstate(over="ignore", invalid="ignore"):  # becomes infinite, which the checks tell
        return (stored.astype(np.float64) * slope + intercept).astype(np.float32)
