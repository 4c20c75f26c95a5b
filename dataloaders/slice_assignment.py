"""Find an organ's slices, and assign a support slice to each query slice."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Assignment:
    """The query slices to segment, and the support slice for each.

    Attributes:
        slices: positions in the query, increasing.
        parts: for each of them an index into the support slices.
    """

    slices: np.ndarray
    parts: np.ndarray


def find_organ_slices(label_map: np.ndarray, label: int) -> np.ndarray:
    """List the slices of a label map `(Z, H, W)` that contain an organ; may be empty."""
    return np.flatnonzero((label_map == label).any(axis=(1, 2)))


def choose_support_slices(slices: np.ndarray, n_part: int) -> np.ndarray:
    """Choose the middle slice of each of `n_part` equal parts.

    That of part i has index `int((2 i + 1) / (2 n_part) * n)`; for three parts they lie at 1/6, 1/2 and 5/6
    of the organ. Slices repeat if there are fewer than parts.

    Args:
        slices: the support's slices that contain the organ, at least one.
        n_part: number of parts.

    Raises:
        ValueError: there is no slice.
    """
    if len(slices) == 0:
        raise ValueError("the support must contain the organ")
    return np.array([slices[(2 * part + 1) * len(slices) // (2 * n_part)] for part in range(n_part)])


def assign_chunks(slices: np.ndarray, n_part: int) -> Assignment:
    """Split a query's organ slices into chunks, one per support slice.

    The boundaries are `linspace(0, n, n_part + 1)`, truncated to integers.
    """
    cuts = [part * len(slices) // n_part for part in range(n_part + 1)]
    return Assignment(slices=slices, parts=np.repeat(np.arange(n_part), np.diff(cuts)))


def assign_by_height(n_query_slices: int, support_slices: np.ndarray, n_support_slices: int) -> Assignment:
    """Assign to every query slice the support slice of the nearest relative height.

    The query's labels are not used. A slice's relative height is `(z + 1/2) / Z` in its own scan; ties go to
    the first support slice.
    """
    query_heights = (np.arange(n_query_slices) + 0.5) / n_query_slices
    support_heights = (np.asarray(support_slices) + 0.5) / n_support_slices
    nearest = np.abs(query_heights[:, None] - support_heights[None]).argmin(axis=1)
    return Assignment(slices=np.arange(n_query_slices), parts=nearest)
