"""The bytes of NIfTI files, which may be damaged or made to harm.

Libraries take a header at its word: they ask for the memory that it claims, give zeros for voxels that are
not there, and turn voxels that are no numbers into 0. Here nothing is unpacked far beyond what the header
claims, and nothing is claimed that the file could not hold.
"""

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util.errors import UserError

HEADER_BYTES = 348
BEGINNING_BYTES = 1 << 16  # of a file, to find its header in, packed or not
_SPARE_BYTES = 1 << 16  # some programs fill their files up behind the voxels
MOST_VOXELS = 1 << 30  # 1024 x 1024 x 1024
GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's sign for gzip's form, with its checksum
_FIRST_BLOCK_BYTES, _BLOCK_BYTES = 1 << 12, 1 << 20
_MOST_EMPTY_MEMBERS = 1000  # in a row; nobody writes so many
_ZEROS = re.compile(rb"\0*")
# What deflate can make of a byte at most, and the ends of the form.
_MOST_UNPACKED_PER_BYTE, _ENDS_BYTES = 1032, 1 << 16
_FARTHEST_MM = 1e6
_LONGEST_QUATERNION = 1.01  # of its three stored parts, squared and summed; at most 1 but for rounding
_MAGIC = b"n+1\0"
_FIRST_VOXEL_BYTE = 352
_HEADER = np.dtype(
    {
        "names": [
            *("size", "dim", "datatype", "bitpix", "pixdim", "offset", "slope", "intercept"),
            *("has_quaternion", "has_rows", "quaternion", "shift_mm", "rows", "magic"),
        ],
        "formats": [
            *("i4", ("i2", 8), "i2", "i2", ("f4", 8), "f4", "f4", "f4"),
            *("i2", "i2", ("f4", 3), ("f4", 3), ("f4", 12), "S4"),
        ],
        "offsets": [0, 40, 70, 72, 76, 108, 112, 116, 252, 254, 256, 268, 280, 344],
        "itemsize": HEADER_BYTES,
    }
)
_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}


@dataclass(frozen=True)
class NiftiHeader:
    """How a NIfTI file's voxels are stored.

    Attributes:
        shape: `(Z, H, W)`.
        dtype: of the stored values, in the file's byte order.
        offset: where they begin, in unpacked bytes.
        slope, intercept: a voxel is slope * stored + intercept.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float

    @property
    def n_bytes(self) -> int:
        """The whole file's length, unpacked."""
        return self.offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


class NiftiFault(ValueError):
    """What is wrong with a file, in a few words."""


def read_header(path: Path) -> NiftiHeader:
    """Read and check how a file's voxels are stored, but no voxel.

    Raises:
        NiftiFault: it is no NIfTI-1 file, it claims what it cannot hold, or its spacing or scaling is of no
            use.
        UserError: its voxels are not 3D or not single real values.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = unpack(file.read(BEGINNING_BYTES), HEADER_BYTES, whole=False)
    header = _parsed(path, start)
    fits = header.n_bytes <= most_unpacked(path)
    if not fits or header.n_bytes - header.offset > MOST_VOXELS * header.dtype.itemsize:
        raise NiftiFault(f"it claims {header.n_bytes} bytes for its shape {header.shape}")
    return header


def read_voxels(path: Path, *, any_filling: bool = False) -> np.ndarray:
    """Read a file's voxels, scaled.

    Args:
        path: the file, which may hold up to 64 KiB of zeros behind its voxels.
        any_filling: these bytes may be others than zeros. Such may be voxels for which the header claims
            too small a shape.

    Returns:
        `(Z, H, W)` in the file's own dtype, or float32 for scaled whole numbers. Values that are no numbers
        are kept.

    Raises:
        NiftiFault: as `read_header`; or the file is cut off, damaged or longer than it claims.
        UserError, OSError: as `read_header`.
    """
    header = read_header(path)
    content = unpack(path.read_bytes(), header.n_bytes + _SPARE_BYTES)
    if len(content) < header.n_bytes:
        raise NiftiFault(f"it ended before the {header.n_bytes} bytes that it claims")
    if not any_filling and content[header.n_bytes :].strip(b"\0"):
        raise NiftiFault(f"it holds more than the {header.n_bytes} bytes that it claims")
    count = header.shape[0] * header.shape[1] * header.shape[2]
    stored = np.frombuffer(content, header.dtype, count, header.offset).reshape(header.shape)
    if (header.slope, header.intercept) == (1, 0):
        return stored.astype(header.dtype.newbyteorder("="))
    with np.errstate(over="ignore", invalid="ignore"):  # becomes infinite, which whoever asked must check
        scaled = stored * np.float64(header.slope) + np.float64(header.intercept)
        return scaled.astype(header.dtype.newbyteorder("=") if header.dtype.kind == "f" else np.float32)


def most_unpacked(path: Path) -> int:
    """Return how many bytes a file can hold at the very most, unpacked."""
    return path.stat().st_size * _MOST_UNPACKED_PER_BYTE + _ENDS_BYTES


def unpack(content: bytes, most_bytes: int, *, whole: bool = True) -> bytes:
    """Unpack a gzip file's bytes, and return others as they are.

    Args:
        content: the file's bytes.
        most_bytes: what it may hold.
        whole: it must be complete, with right checksums, and hold no more; otherwise its beginning alone is
            returned.

    Raises:
        NiftiFault: it is cut off, damaged, holds more, or has absurdly many empty members.
    """
    if not content.startswith(GZIP_MAGIC):
        if whole and len(content) > most_bytes:
            raise NiftiFault(f"it holds more than {most_bytes} bytes")
        return content if whole else content[:most_bytes]
    parts, left, start, n_empty = [], most_bytes, 0, 0
    while start < len(content) and (whole or left):  # a gzip file may be several members in a row
        part, end = _unpack_member(content, start, most_bytes=left + whole)
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise NiftiFault(f"it holds more than {most_bytes} bytes")
        if end is None and whole:
            raise NiftiFault("it ended before its end")
        n_empty = 0 if part else n_empty + 1
        if n_empty > _MOST_EMPTY_MEMBERS:
            raise NiftiFault(f"more than {_MOST_EMPTY_MEMBERS} empty gzip members in a row")
        start = len(content) if end is None else _ZEROS.match(content, end).end()  # gzip's filling
    return b"".join(parts)


def _unpack_member(content: bytes, start: int, *, most_bytes: int) -> tuple[bytes, int | None]:
    """Return at most so many of a gzip member's bytes, and its end where that was reached.

    zlib copies what it was given behind a member's end. The first member, mostly the only one, gets
    everything; others get blocks that grow, so that the copies are no longer than about the member.
    """
    inflater = zlib.decompressobj(wbits=_GZIP_WINDOW)
    parts, view, n_block = [], memoryview(content), _FIRST_BLOCK_BYTES if start else len(content)
    while start < len(content) and most_bytes and not inflater.eof:
        block = view[start : start + n_block]
        try:
            parts.append(inflater.decompress(block, most_bytes))
        except zlib.error as error:
            raise NiftiFault(str(error)) from error
        most_bytes -= len(parts[-1])
        start += len(block) - len(inflater.unused_data)
        n_block = min(2 * n_block, _BLOCK_BYTES)
    return b"".join(parts), start if inflater.eof else None


def _parsed(path: Path, start: bytes) -> NiftiHeader:
    orders = [order for order in "<>" if start[:4] == np.array(HEADER_BYTES, f"{order}i4").tobytes()]
    if not orders or len(start) < HEADER_BYTES:
        raise NiftiFault("no NIfTI-1 header")
    header = np.frombuffer(start, _HEADER.newbyteorder(orders[0]), 1)[0]
    if start[344:348] != _MAGIC:
        raise NiftiFault("its header and voxels are not in one file")
    lengths = _lengths(header["dim"].tolist())
    dtype = _DTYPES.get(int(header["datatype"]))
    if len(lengths) != 3 or dtype is None:
        raise UserError(f"{path}: must be a 3D image of single values, got size {tuple(lengths)}")
    dtype = np.dtype(dtype).newbyteorder(orders[0])
    if header["bitpix"] != 8 * dtype.itemsize:
        raise NiftiFault(f"{header['bitpix']} bits a voxel for {dtype.name}")
    spacing = header["pixdim"][1:4].astype(float)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise NiftiFault(f"spacing must be above 0 mm, got {spacing.tolist()}")
    _check_place(header)
    offset, slope, intercept = (float(header[name]) for name in ("offset", "slope", "intercept"))
    if not (offset >= _FIRST_VOXEL_BYTE and offset.is_integer()):
        raise NiftiFault(f"voxels that begin at byte {offset:g}")
    return NiftiHeader(tuple(reversed(lengths)), dtype, int(offset), *_scaling(slope, intercept))


def _check_place(header: np.void) -> None:
    """Refuse a place in the patient that is none: ITK would read other axes out of it in silence."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number is not below a limit either
        is_turn = np.square(header["quaternion"].astype(float)).sum() < _LONGEST_QUATERNION
        is_shift, are_rows = (np.abs(header[name]).max() < _FARTHEST_MM for name in ("shift_mm", "rows"))
    is_wrong = header["has_quaternion"] > 0 and not (is_turn and is_shift)
    if is_wrong or (header["has_rows"] > 0 and not are_rows):
        raise NiftiFault("its place in the patient is none")


def _scaling(slope: float, intercept: float) -> tuple[float, float]:
    """Return a header's slope and intercept as they are meant."""
    if math.isinf(slope) or math.isinf(intercept):
        raise NiftiFault(f"voxels scaled by {slope:g} and {intercept:g}")
    if slope == 0 or math.isnan(slope):  # the form's and nibabel's sign for values that are not scaled
        return 1.0, 0.0
    return slope, 0.0 if math.isnan(intercept) else intercept


def _lengths(dim: list[int]) -> list[int]:
    """Return the lengths of a header's axes, without those of 1 after the third."""
    n_axes, *lengths = dim
    if not 1 <= n_axes <= 7 or min(lengths[:n_axes]) < 1:
        raise NiftiFault(f"it claims the size {lengths[: max(0, n_axes)]}")
    lengths = lengths[:n_axes]
    while len(lengths) > 3 and lengths[-1] == 1:
        lengths.pop()
    return lengths
