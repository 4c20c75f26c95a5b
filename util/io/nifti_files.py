"""Defensive NIfTI-1 reader for untrusted files, on top of nibabel.

nibabel and ITK trust a header: they allocate the memory it claims, replace invalid values silently,
and choose between two affines that disagree. This module limits reads to what the file can hold, and
refuses a file whose header contradicts itself about the voxel grid. No other module opens NIfTI files.
"""

import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError

from util.errors import UserError

MAX_VOXELS = 1 << 30  # 1024 x 1024 x 1024
MIN_SPACING_MM, MAX_SPACING_MM = 0.01, 100.0
SKEW_TOLERANCE = 1e-3  # of direction cosines, which are stored as float32
_HEADER_BYTES, _MIN_OFFSET, _MAGIC = 348, 352, b"n+1\0"
_PADDING_BYTES = 1 << 16  # some programs pad files after the voxels
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_DEFLATE_RATIO = 1032  # deflate's limit, output bytes for each input byte
_MM_OF_UNIT = {1: 1e3, 2: 1.0, 3: 1e-3}  # NIfTI's codes of metre, millimetre and micrometre
_UNIT_NAMES = {1: "m", 3: "µm"}
_SPACING_TOLERANCE, _ORIGIN_TOLERANCE_MM = 1e-3, 0.1
_MAX_ORIGIN_MM = 1e6


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """Storage and geometry of the voxels of a NIfTI file.

    Attributes:
        shape: `(X, Y, Z)`, the file's own axis order.
        dtype: of the stored values, in the file's byte order.
        offset: of the first voxel in the uncompressed file, in bytes.
        slope, intercept: a voxel is slope * stored + intercept.
        spacing_mm: `(x, y, z)`, from `pixdim` and the spatial unit.
        affine: `(4, 4)` float64, from voxel indices `(x, y, z)` to patient RAS mm; None if the header has
            neither a qform nor an sform (both codes are 0).
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray | None

    @property
    def n_bytes(self) -> int:
        """Length of the uncompressed file without padding."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> NiftiHeader:
    """Read and validate a header, but no voxels.

    A volume may have further axes of length 1, such as a single time point.

    Raises:
        UserError: the file is missing, unreadable, not a single-file NIfTI-1 of one real 3D volume, claims
            more than it can hold, or qform, sform, `pixdim` and units are invalid or contradict each other.
    """
    with _user_errors(path):
        fields = nibabel.Nifti1Header(read_header_bytes(path), check=False)
        shape, dtype = _volume_shape(fields, path), _voxel_dtype(fields, path)
        offset, slope, intercept = _storage(fields)
        spacing_mm, affine = _grid(fields, path)
        header = NiftiHeader(shape, dtype, offset, slope, intercept, spacing_mm, affine)
        capacity = path.stat().st_size * _MAX_DEFLATE_RATIO + _PADDING_BYTES
        if header.n_bytes > capacity or math.prod(shape) > MAX_VOXELS:
            raise _Fault(f"header claims {header.n_bytes} bytes for shape {shape}")
    return header


def read_voxels(path: Path, header: NiftiHeader, *, allow_padding: bool = False) -> np.ndarray:
    """Read the voxels with their scaling applied.

    Args:
        path: the file.
        header: from `read_header`.
        allow_padding: accept up to 64 KiB of any bytes after the voxels; otherwise only zeros, because other
            bytes may be voxels of a larger shape than the header's.

    Returns:
        `(Z, Y, X)` in the file's dtype and native byte order, or float32 for scaled integers; may hold NaN
        and infinity.

    Raises:
        UserError: the file is truncated, damaged or longer than its header claims, or memory runs out.
    """
    with _user_errors(path):
        content = _read(path, header.n_bytes + _PADDING_BYTES + 1)
        if len(content) < header.n_bytes:
            raise _Fault(f"truncated: {header.n_bytes} bytes expected, got {len(content)}")
        if len(content) > header.n_bytes + _PADDING_BYTES:
            raise _Fault(f"longer than {header.n_bytes + _PADDING_BYTES} bytes")
        if not allow_padding and content[header.n_bytes :].strip(b"\0"):
            raise _Fault(f"longer than the {header.n_bytes} bytes of its header")
        spec = (header.shape, header.dtype, header.offset, header.slope, header.intercept)
        with np.errstate(over="ignore", invalid="ignore"):  # overflow gives infinity, which callers check
            voxels = np.asarray(ArrayProxy(io.BytesIO(content), spec, mmap=False))
            is_scaled = (header.slope, header.intercept) != (1, 0)
            stored = np.dtype(np.float32) if is_scaled and header.dtype.kind != "f" else header.dtype
            return np.ascontiguousarray(voxels.T, stored.newbyteorder("="))


class _Fault(Exception):
    """A defect of the bytes of a file, in a few words."""


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """Convert the exceptions that a damaged file raises to `UserError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except MemoryError as error:
        raise UserError(f"{path}: not enough memory to read it") from error
    except (_Fault, OSError, EOFError, zlib.error, HeaderDataError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{path}: cannot be read as an image ({reason}); restore the file") from error


def _read(path: Path, n_bytes: int) -> bytes:
    """Read at most `n_bytes` of a file, decompressed if it is gzip, regardless of its name.

    gzip verifies checksums when the end is reached.
    """
    with path.open("rb") as file:
        is_gzip = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        return gzip.GzipFile(fileobj=file).read(n_bytes) if is_gzip else file.read(n_bytes)


def read_header_bytes(path: Path) -> bytes:
    """Read the header's bytes; only for files that `read_header` accepts."""
    if path.is_dir():
        raise UserError(f"{path}: no such file, found a folder; give a NIfTI file")
    start = _read(path, _HEADER_BYTES)
    if not start:
        raise _Fault("empty file")
    lengths = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    if _HEADER_BYTES not in lengths:
        raise _Fault(f"not a NIfTI-1 header, it starts with {start[:4]!r}")
    if len(start) < _HEADER_BYTES:
        raise _Fault(f"header of {_HEADER_BYTES} bytes expected, got {len(start)}")
    if start[344:348] != _MAGIC:
        raise _Fault(f"header and voxels must be in one NIfTI-1 file, got magic {start[344:348]!r}")
    return start


def _volume_shape(header: nibabel.Nifti1Header, path: Path) -> tuple[int, int, int]:
    n_axes, *lengths = (int(length) for length in header["dim"])
    if not 1 <= n_axes <= 7 or min(lengths[:n_axes]) < 1:
        raise _Fault(f"invalid size {lengths[: max(0, n_axes)]}")
    shape = lengths[:n_axes]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3:
        raise UserError(
            f"{path}: must be a 3D image of single values, got size {tuple(lengths[:n_axes])}; split it "
            "into one file per volume"
        )
    return tuple(shape)


def _voxel_dtype(header: nibabel.Nifti1Header, path: Path) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):  # an unknown code
        dtype = np.dtype("V")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = f"{dtype} (datatype {int(header['datatype'])})"
        raise UserError(f"{path}: must be a 3D image of single values, got voxels of {kind}; convert it")
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise _Fault(f"{int(header['bitpix'])} bits per voxel for {dtype.name}")
    return dtype


def _storage(header: nibabel.Nifti1Header) -> tuple[int, float, float]:
    """Return offset, slope and intercept; a slope of 0 or NaN means no scaling."""
    offset, slope, intercept = (float(header[name]) for name in ("vox_offset", "scl_slope", "scl_inter"))
    if not (offset >= _MIN_OFFSET and offset.is_integer()):
        raise _Fault(f"invalid voxel offset {offset:g}")
    if math.isinf(slope) or math.isinf(intercept):
        raise _Fault(f"invalid voxel scaling by {slope:g} and {intercept:g}")
    if slope == 0 or math.isnan(slope):
        return int(offset), 1.0, 0.0
    return int(offset), slope, 0.0 if math.isnan(intercept) else intercept


def _grid(header: nibabel.Nifti1Header, path: Path) -> tuple[tuple[float, float, float], np.ndarray | None]:
    """Return spacing and affine in mm; raises if qform, sform and `pixdim` contradict each other."""
    unit = int(header["xyzt_units"]) & 7
    mm = _MM_OF_UNIT.get(unit, 1.0)
    stored = header["pixdim"][1:4].astype(float)
    if not (np.isfinite(stored).all() and (stored > 0).all()):
        raise UserError(
            f"{path}: spacing must be above 0 mm along x, y, z, got {stored.tolist()}; fix the header"
        )
    spacing_mm = stored * mm
    affines = {
        name: affine
        for name, affine in (("qform", _qform(header, path)), ("sform", _sform(header)))
        if affine is not None
    }
    for affine in affines.values():
        affine[:3] *= mm
    _check_spacing(spacing_mm, path, unit=_UNIT_NAMES.get(unit), stored=stored)
    for name, affine in affines.items():
        _check_affine(name, affine, path)
    readings = [f"{name} (code {int(header[f'{name}_code'])}) {_describe(affines[name])}" for name in affines]
    steps = [np.linalg.norm(affine[:3, :3], axis=0) for affine in affines.values()]
    differs = any(not np.allclose(step, spacing_mm, rtol=_SPACING_TOLERANCE, atol=0) for step in steps)
    if differs:
        readings.insert(0, f"pixdim {_times(spacing_mm)} mm")
    if differs or (len(affines) == 2 and not _same_position(*affines.values())):
        raise UserError(
            f"{path}: the header contradicts itself: {'; '.join(readings)}; keep the right one and {_HINT}"
        )
    return tuple(spacing_mm.tolist()), next(reversed(affines.values()), None)  # the sform if there are both


def _qform(header: nibabel.Nifti1Header, path: Path) -> np.ndarray | None:
    if header["qform_code"] < 1:
        return None
    header = header.copy()
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # 0 means 1
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            return header.get_qform()
    except (HeaderDataError, ValueError) as error:  # the quaternion is too long
        raise UserError(f"{path}: invalid qform (not a rotation); {_HINT}") from error


def _sform(header: nibabel.Nifti1Header) -> np.ndarray | None:
    return header.get_sform() if header["sform_code"] > 0 else None


_HINT = "fix the header, for example with nibabel's set_qform and set_sform"


def _check_spacing(spacing_mm: np.ndarray, path: Path, *, unit: str | None, stored: np.ndarray) -> None:
    fault = spacing_fault(spacing_mm)
    if fault and unit:
        raise UserError(
            f"{path}: {fault} ({_times(stored)} {unit} by the header's xyzt_units); fix unit or spacing"
        )
    if fault:
        raise UserError(f"{path}: {fault}; fix pixdim, qform and sform")


def spacing_fault(spacing_mm: Sequence[float]) -> str | None:
    """Describe why a spacing is implausible for a scan; None if it is plausible."""
    if all(MIN_SPACING_MM <= step <= MAX_SPACING_MM for step in spacing_mm):
        return None
    return f"spacing must be {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm, got {_times(spacing_mm)} mm"


def _check_affine(name: str, affine: np.ndarray, path: Path) -> None:
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and steps.min() > 0 and np.abs(affine[:3, 3]).max() < _MAX_ORIGIN_MM):
        raise UserError(f"{path}: invalid {name} (not a position in a patient); {_HINT}")
    axes = affine[:3, :3] / steps
    if not np.allclose(axes.T @ axes, np.eye(3), rtol=0, atol=SKEW_TOLERANCE):
        raise UserError(
            f"{path}: invalid {name} (axes that are not perpendicular); resample the image, or {_HINT}"
        )


def _same_position(affine: np.ndarray, other: np.ndarray) -> bool:
    axes = [affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in (affine, other)]
    same_axes = np.allclose(*axes, rtol=0, atol=SKEW_TOLERANCE)
    return same_axes and np.allclose(affine[:3, 3], other[:3, 3], rtol=0, atol=_ORIGIN_TOLERANCE_MM)


def _describe(affine: np.ndarray) -> str:
    axes = "".join(nibabel.aff2axcodes(affine))
    steps, origin = np.linalg.norm(affine[:3, :3], axis=0), affine[:3, 3]
    if np.count_nonzero(np.abs(affine[:3, :3] / steps) > SKEW_TOLERANCE) > 3:  # oblique
        axes += " along " + ", ".join(
            f"({x:.3g} {y:.3g} {z:.3g})" for x, y, z in (affine[:3, :3] / steps).T + 0.0
        )
    return f"{axes}, {_times(steps)} mm, origin (RAS) {', '.join(f'{mm:.6g}' for mm in origin + 0.0)} mm"


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.6g}" for number in numbers)
