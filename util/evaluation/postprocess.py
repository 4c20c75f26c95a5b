"""Postprocess predictions: keep the largest connected component and fill holes."""

import numpy as np
from scipy import ndimage

THRESHOLD = 0.5  # probabilities above it are predicted, as in scores and written masks


def keep_largest_component(probabilities: np.ndarray) -> np.ndarray:
    """Keep an organ's largest connected component, and fill holes in its slices.

    Components are 26-connected; adjacent slices of the stack count as neighbours even if slices between them
    were not segmented. In a tie the first component in raster order is kept. Holes are 4-connected background
    regions of a slice that do not touch its border.

    Args:
        probabilities: `(n, H, W)`, floating point, 0 to 1; predicted above 1/2.

    Returns:
        A new array of the same shape and dtype: 0 in other components, just above 1/2 in holes (so that a
        more probable organ there keeps its voxels in a label map), otherwise unchanged.
    """
    predicted = probabilities > THRESHOLD
    filled = largest_component(predicted)
    for component_slice in filled:
        component_slice[:] = ndimage.binary_fill_holes(component_slice)
    processed = probabilities.copy()
    processed[predicted & ~filled] = 0
    number = probabilities.dtype.type
    processed[filled & ~predicted] = np.nextafter(number(THRESHOLD), number(1))
    return processed


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest component of a mask; diagonal neighbours are connected.

    In a tie it is the first in raster order; of an empty mask it is empty.
    """
    components, n_components = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    if n_components == 0:
        return np.zeros(mask.shape, dtype=bool)
    return components == np.bincount(components.ravel())[1:].argmax() + 1
