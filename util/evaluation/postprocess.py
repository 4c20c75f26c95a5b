"""Clean an organ's predicted probabilities: one connected piece, without holes."""

import numpy as np
from scipy import ndimage

THRESHOLD = 0.5  # probabilities above it are predicted, as scores and written masks have it
_CUBE = np.ones((3, 3, 3), dtype=bool)  # neighbours by face, edge or corner: 26


def clean_up(probabilities: np.ndarray) -> np.ndarray:
    """Keep the largest predicted piece of an organ and fill the holes in its slices.

    Pieces are 26-connected. Slices that stand next to each other in the stack count as neighbours, also where
    the scan has others between them that were not segmented: what was not looked at cuts no organ in two. Of
    equally large pieces the one that comes first in raster order stays. A hole is what in a slice no path
    across pixels' edges joins to the slice's border without meeting the piece.

    Args:
        probabilities: `(n, H, W)`, floating point, 0 to 1; above 1/2 it is predicted.

    Returns:
        A new array of the same shape and dtype: 0 where another piece was, just above 1/2 where a hole was
        (so that another organ that was found there keeps its place in a label map), all else as it was.
    """
    predicted = probabilities > THRESHOLD
    piece = largest_component(predicted)
    filled = np.zeros_like(piece)
    for own, slice_filled in zip(piece, filled, strict=True):
        slice_filled[:] = ndimage.binary_fill_holes(own)
    cleaned = probabilities.copy()
    cleaned[predicted & ~filled] = 0
    number = probabilities.dtype.type
    cleaned[filled & ~predicted] = np.nextafter(number(THRESHOLD), number(1))
    return cleaned


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Find the 26-connected piece of a mask `(n, H, W)` with the most voxels.

    Of several the first in raster order counts. An empty mask has none: all is False.
    """
    pieces, n_pieces = ndimage.label(mask, structure=_CUBE)
    if n_pieces == 0:
        return np.zeros(mask.shape, dtype=bool)
    n_voxels = np.bincount(pieces.ravel())
    n_voxels[0] = 0  # the background
    is_largest = (n_voxels == n_voxels.max())[pieces]
    return pieces == pieces.flat[is_largest.argmax()]
