"""Read PNG slices of a ground truth, and notice what decoders pass over."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from util.errors import UserError

_MAX_DEFLATE_RATIO = 1032  # what deflate can make of a byte at most
_SIZE_OFFSET = 16  # of width and height, in the first chunk
_DEPTH_OFFSET, _PALETTE = 24, 3  # bit depth, then colour type
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_grey_levels(path: Path) -> np.ndarray:
    """Read a PNG of one grey level a pixel.

    Colour images whose channels are equal count as grey; transparency is ignored. Palettes may have fewer
    bits, since their colours have 8.

    Returns:
        `(H, W)` uint8.

    Raises:
        UserError: the file is empty, no PNG, cut off or damaged, coloured, or not of 8 bits.
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
    """Walk through a PNG's chunks; each has its length, name, content and checksum."""
    if not content:
        return "it is empty"
    if not content.startswith(_SIGNATURE):
        return f"it begins with {content[:8]!r}"
    place = len(_SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 12 + length
        if end > len(content):
            break
        name = content[place + 4 : place + 8]
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        if zlib.crc32(content[place + 4 : end - 4]) != checksum:
            return "a checksum is wrong"
        if name == b"IEND":
            return None
        place = end
    return "it is cut off"


def _size_fault(content: bytes) -> str | None:
    """Tell of a size that the file cannot hold, before a decoder asks for that much memory."""
    if len(content) < _DEPTH_OFFSET + 2:
        return "it is cut off"
    width, height = struct.unpack_from(">II", content, _SIZE_OFFSET)
    # The least is one bit a pixel.
    if width * height > 8 * _MAX_DEFLATE_RATIO * len(content) or not width * height:
        return f"it claims {width} x {height} pixels"
    return None
