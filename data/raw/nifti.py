"""Read raw NIfTI files, and notice what SimpleITK mends in silence.

SimpleITK reads a plain file that is cut off, turns values that are no numbers into 0, and puts 1 mm where
a spacing is 0. The voxels therefore come from the file's bytes; the geometry comes from SimpleITK, as
everywhere.
"""

import struct
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError

from util.errors import UserError
from util.image_io import Geometry, read_geometry
from util.nifti_files import (
    BEGINNING_BYTES,
    GZIP_MAGIC,
    HEADER_BYTES,
    NiftiFault,
    read_header,
    read_voxels,
    unpack,
)

_SCALING = slice(112, 120)
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
    _check_header(path, _beginning(path))
    try:
        _check_length(path)
        voxels = read_voxels(path, any_filling=True)
    except NiftiFault as error:
        raise UserError(f"{path}: must be a whole gzip file of NIfTI ({error}); restore the file") from error
    except MemoryError as error:
        raise UserError(f"{path}: not enough memory to read it") from error
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, which the checks tell
            voxels = voxels.astype(np.float32, copy=False)
    return voxels, read_geometry(path)


def _beginning(path: Path) -> bytes:
    """Read a file's header and no more, which may be less where the file is cut off."""
    try:
        with path.open("rb") as file:
            content = file.read(BEGINNING_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    if not content:
        raise UserError(f"{path}: must be a NIfTI file, got an empty one; restore the file")
    try:
        return unpack(content, HEADER_BYTES, whole=False)
    except NiftiFault as error:
        raise UserError(f"{path}: must be a whole gzip file ({error}); restore the file") from error


def _check_length(path: Path) -> None:
    """Refuse a plain file that is cut off; a packed one tells so by itself."""
    header = read_header(path)
    with path.open("rb") as file:
        is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    if not is_packed and path.stat().st_size < header.n_bytes:
        raise UserError(
            f"{path}: must hold {header.n_bytes} bytes for its shape {header.shape[::-1]}, "
            f"got {path.stat().st_size}: it is cut off; restore the file"
        )


def _check_header(path: Path, content: bytes) -> None:
    _check_magic(path, content)
    # Before nibabel looks at it, which turns 0 into 1.
    spacing = nibabel.Nifti1Header(content[:HEADER_BYTES], check=False)["pixdim"][1:4]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        found = [round(float(step), 4) for step in spacing]
        raise UserError(f"{path}: spacing must be above 0 mm along x, y, z, got {found}; mend the header")
    # It refuses an intercept alone that is no number, which ITK takes for 0; `read_header` checks both.
    unscaled = bytearray(content)
    unscaled[_SCALING] = bytes(8)
    try:
        with LoggingOutputSuppressor():  # it remarks on what it mends
            image = nibabel.Nifti1Image.from_bytes(bytes(unscaled))
    except (HeaderDataError, ImageFileError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else "damaged"
        raise UserError(f"{path}: its NIfTI header cannot be read ({reason}); restore the file") from error
    if len(image.shape) != 3 or min(image.shape) < 1:
        raise UserError(
            f"{path}: must be a 3D volume, got shape {image.shape}; split it into one file per volume"
        )
    if image.dataobj.dtype.kind not in "iuf":
        raise UserError(f"{path}: must hold single real values, got {image.dataobj.dtype}; convert it")


def _check_magic(path: Path, content: bytes) -> None:
    """Refuse what is no NIfTI-1 in one file; SimpleITK reads no NIfTI-2."""
    lengths = {struct.unpack(order + "i", content[:4])[0] for order in "<>"} if len(content) >= 4 else set()
    if HEADER_BYTES in lengths and len(content) < HEADER_BYTES:
        raise UserError(
            f"{path}: its header must hold {HEADER_BYTES} bytes, got {len(content)}; restore the file"
        )
    if HEADER_BYTES not in lengths or content[_MAGIC_PLACE : _MAGIC_PLACE + len(_MAGIC)] != _MAGIC:
        raise UserError(
            f"{path}: must be a NIfTI-1 file (header and voxels in one .nii or .nii.gz), begins with "
            f"{content[:4]!r}; restore or convert the file"
        )
