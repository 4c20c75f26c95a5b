"""Which slices hold an organ, and which support slice serves which query slice."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Assignment:
    """Which of a query's slices are segmented, and after which of the support slices.

    Attributes:
        slices: positions in the query, increasing.
        parts: for each of them an index into the support slices.
    """

    slices: np.ndarray
    parts: np.ndarray


def organ_slices(label_map: np.ndarray, label: int) -> np.ndarray:
    """List the slices of a label map `(Z, H, W)` that contain an organ, in order.

    The list may be empty.
    """
    return np.flatnonzero((label_map == label).any(axis=(1, 2)))


def choose_support_slices(slices: np.ndarray, n_part: int) -> np.ndarray:
    """Take the middle slice of each of `n_part` equal parts.

    Part i's has index `int((2 i + 1) / (2 n_part) * n)`. For three parts those are at 1/6, 1/2 and 5/6 of the
    organ; few slices are taken repeatedly.

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
    """Cut a query's organ slices into `n_part` chunks.

    Support slice i serves chunk i. The cuts are at `linspace(0, n, n_part + 1)` truncated to whole numbers.
    """
    cuts = [part * len(slices) // n_part for part in range(n_part + 1)]
    return Assignment(slices=slices, parts=np.repeat(np.arange(n_part), np.diff(cuts)))


def assign_by_height(n_query_slices: int, support_slices: np.ndarray, n_support_slices: int) -> Assignment:
    """Serve every query slice by the support slice of the nearest relative height.

    The truth is not looked at. A slice's relative height is `(z + 1/2) / Z` in its own scan; of two equally
    near ones the first serves.
    """
    query_heights = (np.arange(n_query_slices) + 0.5) / n_query_slices
    support_heights = (np.asarray(support_slices) + 0.5) / n_support_slices
    nearest = np.abs(query_heights[:, None] - support_heights[None]).argmin(axis=1)
    return Assignment(slices=np.arange(n_query_slices), parts=nearest)
