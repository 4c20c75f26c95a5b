"""Damage packed NIfTI files whose checksums are right: headers that lie, and voxels that cannot be."""

import gzip
import struct

import numpy as np

from tests.fuzzing.byte_damages import zero_bomb

_DIM, _DATATYPE, _BITPIX, _PIXDIM, _OFFSET, _SLOPE, _CODES, _QUATERNION, _ROWS = (
    40,
    70,
    72,
    76,
    108,
    112,
    252,
    256,
    280,
)
_HEADER_BYTES = 352
_UNUSABLE = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e38)


def _changed(content, offset, form, *values):
    raw = bytearray(gzip.decompress(content))
    struct.pack_into(f"<{form}", raw, offset, *values)
    return gzip.compress(bytes(raw), 1)


def claim_another_size(content, rng):
    """Write another length of an axis, or another number of axes."""
    axis = int(rng.integers(0, 4))
    lengths = (0, -1, -32768, 32767, 5000, 1, 7, 8)
    return _changed(content, _DIM + 2 * axis, "h", int(rng.choice(lengths)))


def claim_everything(content, rng):
    """Claim the largest size there is, alone or with voxels of 8 bytes."""
    content = _changed(content, _DIM, "hhhh", 3, 32767, 32767, 32767)
    return _changed(content, _DATATYPE, "hh", 64, 64) if rng.random() < 0.5 else content


def claim_another_type(content, rng):
    """Write a type of voxels that nobody knows, is not single, or has other bytes than the voxels."""
    stored = struct.unpack_from("<h", gzip.decompress(content), _BITPIX)[0]
    if rng.random() < 0.3:
        return _changed(content, _BITPIX, "h", int(rng.choice([0, -8, 7, 2 * stored, 32767])))
    code, bits = [(0, 0), (1, 1), (32, 64), (128, 24), (1536, 128), (999, 8), (64, 64)][int(rng.integers(7))]
    return _changed(content, _DATATYPE, "hh", code, bits)


def spoil_spacing(content, rng):
    """Write a distance of voxels that cannot be."""
    offset = _PIXDIM + 4 * int(rng.integers(1, 4))
    return _changed(content, offset, "f", float(rng.choice(_UNUSABLE[:-1])))


def spoil_position(content, rng):
    """Write rows and quaternions of which no turned grid can come."""
    value = float(rng.choice(_UNUSABLE[2:]))
    for offset in (_ROWS + 4 * int(rng.integers(12)), _QUATERNION + 4 * int(rng.integers(3))):
        content = _changed(content, offset, "f", value)
    return content


def shear(content, rng):
    """Let the axes lean over, and say that the rows count alone."""
    content = _changed(content, _CODES, "hh", 0, 1)
    rows = (1.0, 0.0, 0.0, 0.0, float(rng.uniform(0.3, 2)), 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    return _changed(content, _ROWS, "12f", *rows)


def spoil_storing(content, rng):
    """Write an offset, a scaling or a mark of the form that cannot be."""
    if rng.random() < 0.3:
        return _changed(content, _OFFSET, "f", float(rng.choice([*_UNUSABLE, 1.5, 351, 400, 1e6])))
    if rng.random() < 0.6:
        return _changed(
            content, _SLOPE, "ff", float(rng.choice(_UNUSABLE[2:5])), float(rng.choice(_UNUSABLE))
        )
    raw = bytearray(gzip.decompress(content))
    raw[344:348] = [b"ni1\0", b"n+2\0", b"abcd"][int(rng.integers(3))]
    return gzip.compress(bytes(raw), 1)


def swap_header(other):
    """Take the header of another file, whose grid or type is another one."""

    def damage(content, rng):
        raw, donor = gzip.decompress(content), gzip.decompress(other)
        return gzip.compress(donor[:_HEADER_BYTES] + raw[_HEADER_BYTES:], 1)

    return damage


def pack_a_bomb(content, rng):
    """Put 1.5 GiB of zeros behind the voxels, or behind a header that claims them."""
    raw = gzip.decompress(content)
    if rng.random() < 0.5:
        return zero_bomb(raw, 1500)
    raw = bytearray(raw[:_HEADER_BYTES])
    struct.pack_into("<hhhh", raw, _DIM, 3, 32767, 32767, 1)
    return zero_bomb(bytes(raw), 1500)


def unpacked_bytes(content, rng):
    """Leave the voxels unpacked, and cut some off."""
    return gzip.decompress(content)[: -int(rng.integers(1, 2000))]


def _with_voxels(content, change):
    """Write changed voxels as float32, with a header that says so."""
    raw = bytearray(gzip.decompress(content))
    code = struct.unpack_from("<h", raw, _DATATYPE)[0]
    stored = np.frombuffer(raw, {2: "<u1", 4: "<i2", 8: "<i4", 16: "<f4"}[code], offset=_HEADER_BYTES)
    voxels = stored.astype("<f4")
    change(voxels)
    struct.pack_into("<hh", raw, _DATATYPE, 16, 32)
    return gzip.compress(bytes(raw[:_HEADER_BYTES]) + voxels.tobytes(), 1)


def put_no_numbers(content, rng):
    """Make some voxels NaN or infinite."""

    def change(voxels):
        voxels[rng.integers(0, len(voxels), 5)] = float(rng.choice([np.nan, np.inf, -np.inf]))

    return _with_voxels(content, change)


def put_impossible_ids(content, rng):
    """Make some ids fractions, negative or larger than any integer of 32 bits; or leave them whole floats."""

    def change(voxels):
        voxels[rng.integers(0, len(voxels), 5)] += float(rng.choice([0.5, -1000, 1e10, 3e38, 0.0]))

    return _with_voxels(content, change)


HEADERS = {
    "another size": claim_another_size,
    "largest size": claim_everything,
    "another type": claim_another_type,
    "spacing": spoil_spacing,
    "position": spoil_position,
    "sheared": shear,
    "storing": spoil_storing,
    "gzip bomb": pack_a_bomb,
    "cut, unpacked": unpacked_bytes,
    "NaN or infinity": put_no_numbers,
}
