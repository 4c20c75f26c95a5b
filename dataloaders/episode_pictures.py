"""Draw training episodes: support and query with outlines of their masks."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from torch import Tensor

from util.io.slice_pictures import draw_grey, draw_rim, resize_labels, rgb

# Sky blue and orange of the Okabe-Ito palette, which is safe for colour-blind readers.
TRUTH_COLOUR, PREDICTION_COLOUR = "#56b4e9", "#e69f00"
SIDE_PX, GAP_PX, CAPTION_PX = 192, 4, 18
HEAT_OPACITY = 0.7


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
    picture = draw_grey(image, size_px)
    for mask, colour in outlines:
        draw_rim(picture, resize_labels(np.asarray(mask) > 0, size_px), colour)
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
    """Stack pictures of one size vertically (`axis=0`) or horizontally (`axis=1`)."""
    gap_shape = list(pictures[0].shape)
    gap_shape[axis] = GAP_PX
    gap = np.zeros(gap_shape, np.float32)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=axis)


def draw_heat(image: np.ndarray, values: np.ndarray, *, side_px: int = SIDE_PX) -> np.ndarray:
    """Draw a slice in grey, under a transparent heat map of any grid.

    Args:
        image: `(H, W)`.
        values: `(h, w)`, at least 0; the largest has the full colour, if it is above 0.
        side_px: longer side of the picture.
    """
    picture = draw_slice(image, side_px=side_px)
    size_px = picture.shape[:2]
    scaled = values.astype(np.float32) / max(float(values.max()), np.finfo(np.float32).tiny)
    heat = cv2.resize(scaled, size_px[::-1], interpolation=cv2.INTER_NEAREST)[..., None]
    return picture * (1 - HEAT_OPACITY * heat) + HEAT_OPACITY * heat * rgb(PREDICTION_COLOUR)


def draw_regions(
    image: np.ndarray, mask: np.ndarray, regions: np.ndarray, *, side_px: int = SIDE_PX
) -> np.ndarray:
    """Draw a slice with the outline of a mask and the centres of square regions.

    Args:
        image, mask: `(H, W)`.
        regions: `(P, 3)`, top row, left column and side in px.
        side_px: longer side of the picture.
    """
    picture = draw_slice(image, [(mask, TRUTH_COLOUR)], side_px=side_px)
    scale = side_px / max(image.shape)
    for top, left, side in regions.tolist():
        centre = (round((left + side / 2) * scale), round((top + side / 2) * scale))
        cv2.circle(picture, centre, 2, rgb(PREDICTION_COLOUR).tolist(), thickness=-1)
    return picture


def add_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """Add a line of ASCII text above a picture, truncated at its width."""
    strip = np.zeros((CAPTION_PX, picture.shape[1], 3), np.uint8)
    origin = (2, CAPTION_PX - 5)
    cv2.putText(strip, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([strip.astype(np.float32) / 255, picture], axis=0)
