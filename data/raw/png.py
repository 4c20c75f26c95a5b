"""Defensive PNG reader for ground truth, stricter than image decoders."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from util.errors import UserError

_MAX_DEFLATE_RATIO = 1032  # bytes out per byte in
_SIZE_OFFSET = 16  # of width and height in the first chunk
_DEPTH_OFFSET, _PALETTE = 24, 3  # bit depth, then colour type
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_grey_levels(path: Path) -> np.ndarray:
    """Read an 8-bit grey PNG.

    Colour images with equal channels count as grey; transparency is ignored. Palettes may use fewer bits,
    since their colours have 8.

    Returns:
        `(H, W)` uint8.

    Raises:
        UserError: the file is empty, not a PNG, truncated, damaged, coloured, or not 8-bit.
    """
    content = path.read_bytes()
    fault = _fault(content) or _size_fault(content)
    if fault:
        raise UserError(f"{path}: must be a whole PNG file, {fault}; restore the file")
    n_bits, colour_type = content[_DEPTH_OFFSET], content[_DEPTH_OFFSET + 1]
    if n_bits != 8 and colour_type != _PALETTE:  # decoders stretch fewer bits to 0..255
        raise UserError(f"{path}: must have 8 bits a pixel, got {n_bits} by its header; export it with 8")
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"{path}: must be a whole PNG file, cannot be decoded; restore the file")
    if pixels.ndim == 3:
        if (pixels[..., :3] != pixels[..., :1]).any():
            raise UserError(f"{path}: must be a grey image, got a coloured one; restore the file")
        pixels = pixels[..., 0]
    return pixels


def _fault(content: bytes) -> str | None:
    """Verify a PNG's chunks, each of length, name, content and checksum."""
    if not content:
        return "it is empty"
    if not content.startswith(_SIGNATURE):
        return f"it begins with {content[:8]!r}"
    start = len(_SIGNATURE)
    while start + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        end = start + 12 + length
        if end > len(content):
            break
        name = content[start + 4 : start + 8]
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        if zlib.crc32(content[start + 4 : end - 4]) != checksum:
            return "a checksum is wrong"
        if name == b"IEND":
            return None
        start = end
    return "it is cut off"


def _size_fault(content: bytes) -> str | None:
    """Detect a size that the file cannot hold, before a decoder allocates the memory."""
    if len(content) < _DEPTH_OFFSET + 2:
        return "it is cut off"
    width, height = struct.unpack_from(">II", content, _SIZE_OFFSET)
    # A pixel takes at least one bit.
    if width * height > 8 * _MAX_DEFLATE_RATIO * len(content) or not width * height:
        return f"it claims {width} x {height} pixels"
    return None
