"""Hash volumes independently of file, dtype and machine."""

import hashlib

import numpy as np

from util.io.image_io import Geometry

HASH_BYTES = 16
# A grid's numbers are rounded before hashing: readers of the same file differ in the last digits.
_SPACING_STEP_MM, _ORIGIN_STEP_MM, _DIRECTION_STEP = 1e-3, 1e-2, 1e-4
# Keeps round numbers, such as 0.7125, away from the rounding boundaries.
_ROUNDING_OFFSET = 0.3719


def hash_volume(volume: np.ndarray, geometry: Geometry | None = None) -> str:
    """Hash a volume's shape and values, and its grid.

    Args:
        volume: `(Z, H, W)`; equal values give equal hashes in any dtype. Integers beyond 2^53 are rounded.
        geometry: its grid, rounded to 0.01 mm; None: not hashed.

    Returns:
        32 hexadecimal digits of BLAKE2b.
    """
    state = hashlib.blake2b(b"" if geometry is None else _grid_bytes(geometry), digest_size=HASH_BYTES)
    state.update(np.array(volume.shape, "<i8"))
    for image in volume:
        # float32 if it is exact, which halves the bytes to hash. Adding 0 turns -0.0 into 0.
        with np.errstate(over="ignore"):
            short = np.ascontiguousarray(image, "<f4") + np.float32(0)
        is_exact = np.array_equal(short, image)
        state.update(b"4" if is_exact else b"8")
        state.update(short if is_exact else np.ascontiguousarray(image, "<f8") + 0.0)
    return state.hexdigest()


def _grid_bytes(geometry: Geometry) -> bytes:
    """Encode a grid, rounded."""
    steps = np.concatenate(
        [
            np.array(geometry.spacing_mm) / _SPACING_STEP_MM,
            np.array(geometry.origin_mm) / _ORIGIN_STEP_MM,
            np.array(geometry.direction) / _DIRECTION_STEP,
        ]
    )
    return np.floor(steps + _ROUNDING_OFFSET).astype("<i8").tobytes()
