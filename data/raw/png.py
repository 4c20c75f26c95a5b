"""Read PNG files of ground truth, more strictly than image decoders do."""

from pathlib import Path

import numpy as np
from PIL import Image

from util.errors import UserError

_DEPTH_OFFSET, _PALETTE = 24, 3  # bit depth, then colour type


def read_grey_levels(path: Path) -> np.ndarray:
    """Read an 8-bit grey PNG.

    Colour images with equal channels count as grey; transparency is ignored. Palettes may use fewer bits,
    since their colours have 8.

    Returns:
        `(H, W)` uint8.

    Raises:
        UserError: the file is not a PNG, truncated, damaged, coloured, or not 8-bit.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()  # the checksums, which decoding ignores
        with Image.open(path, formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # damage raises errors of many types
        raise UserError(f"{path}: must be a whole PNG file ({error}); restore the file") from error
    n_bits, colour_type = path.read_bytes()[_DEPTH_OFFSET : _DEPTH_OFFSET + 2]
    if n_bits != 8 and colour_type != _PALETTE:  # decoders stretch fewer bits to 0..255
        raise UserError(f"{path}: must have 8 bits a pixel, got {n_bits} by its header; export it with 8")
    if (pixels != pixels[..., :1]).any():
        raise UserError(f"{path}: must be a grey image, got a coloured one; restore the file")
    return np.ascontiguousarray(pixels[..., 0])
