"""Draw training episodes: support and query with outlines of their masks."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from data.contact_tiles import enlarge, grey, rgb, rim

# Sky blue and orange of the Okabe-Ito palette, which is safe for colour-blind readers.
TRUTH_COLOUR, PREDICTION_COLOUR = "#56b4e9", "#e69f00"
SIDE_PX, GAP_PX = 192, 4


def draw_slice(
    image: np.ndarray, outlines: Sequence[tuple[np.ndarray, str]] = (), *, side_px: int = SIDE_PX
) -> np.ndarray:
    """Draw a slice in grey, with the outlines of masks.

    Args:
        image: `(H, W)`.
        outlines: masks `(H, W)` of 0 and 1 and their colours; later ones lie on top.
        side_px: longer side of the picture.

    Returns:
        `(h, w, 3)` float32, 0 to 1.
    """
    size_px = tuple(max(1, round(side_px * side / max(image.shape))) for side in image.shape)
    picture = grey(image, size_px)
    for mask, colour in outlines:
        picture[rim(enlarge(np.asarray(mask) > 0, size_px))] = rgb(colour)
    return picture


def draw_episode(
    episode: Mapping[str, Tensor], *, prediction: np.ndarray | None = None, side_px: int = SIDE_PX
) -> np.ndarray:
    """Draw an episode in a row.

    It shows each shot with its mask, the query, and the query with its mask.

    Args:
        episode: of `EpisodeDataset`, on the CPU.
        prediction: `(H, W)` of 0 and 1, drawn over the query's mask; None if there is none.
        side_px: longer side of a slice.

    Returns:
        `(h, w, 3)` float32, 0 to 1.
    """
    shots = zip(episode["support_images"].numpy()[:, 0], episode["support_masks"].numpy(), strict=True)
    query, truth = episode["query_images"].numpy()[0, 0], episode["query_masks"].numpy()[0]
    outlines = [(truth, TRUTH_COLOUR)]
    if prediction is not None:
        outlines.append((prediction, PREDICTION_COLOUR))
    slices = [draw_slice(image, [(mask, TRUTH_COLOUR)], side_px=side_px) for image, mask in shots]
    slices += [draw_slice(query, side_px=side_px), draw_slice(query, outlines, side_px=side_px)]
    return stack_pictures(slices, axis=1)


def stack_pictures(pictures: Sequence[np.ndarray], *, axis: int) -> np.ndarray:
    """Put equal pictures below (`axis=0`) or beside (`axis=1`) each other."""
    gap_shape = list(pictures[0].shape)
    gap_shape[axis] = GAP_PX
    gap = np.zeros(gap_shape, np.float32)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=axis)
