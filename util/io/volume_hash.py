"""Tell by a hash whether two volumes are the same.

What file, dtype or machine they come from does not matter.
"""

import hashlib

import numpy as np

from util.io.image_io import Geometry

HASH_BYTES = 16
# Numbers of a grid are hashed in whole steps: readers of the same file differ in their last digits.
_SPACING_STEP_MM, _ORIGIN_STEP_MM, _DIRECTION_STEP = 1e-3, 1e-2, 1e-4
# Numbers that people write down, such as 0.7125, must not lie where one step ends and the next begins.
_OFF_ROUND_NUMBERS = 0.3719


def hash_volume(volume: np.ndarray, geometry: Geometry | None = None) -> str:
    """Hash a volume's shape and values, and its grid.

    Args:
        volume: `(Z, H, W)`; equal values give equal hashes in any dtype. Whole numbers beyond 2^53 count as
            their neighbours.
        geometry: its grid; a hundredth of a millimetre counts. None leaves it out.

    Returns:
        32 hexadecimal digits of BLAKE2b.
    """
    state = hashlib.blake2b(b"" if geometry is None else _grid_bytes(geometry), digest_size=HASH_BYTES)
    state.update(np.array(volume.shape, "<i8"))
    for image in volume:
        # float32 where it holds the values: there is half as much to hash. Adding 0 makes -0.0 the same as 0.
        with np.errstate(over="ignore"):
            short = np.ascontiguousarray(image, "<f4") + np.float32(0)
        is_exact = np.array_equal(short, image)
        state.update(b"4" if is_exact else b"8")
        state.update(short if is_exact else np.ascontiguousarray(image, "<f8") + 0.0)
    return state.hexdigest()


def _grid_bytes(geometry: Geometry) -> bytes:
    """Put a grid's place into bytes that do not depend on the last digits."""
    steps = np.concatenate(
        [
            np.array(geometry.spacing_mm) / _SPACING_STEP_MM,
            np.array(geometry.origin_mm) / _ORIGIN_STEP_MM,
            np.array(geometry.direction) / _DIRECTION_STEP,
        ]
    )
    return np.floor(steps + _OFF_ROUND_NUMBERS).astype("<i8").tobytes()
