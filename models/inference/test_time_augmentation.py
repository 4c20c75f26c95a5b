"""Average a scan's segmentation over slightly changed copies of its slices.

The copies are fixed, and none is mirrored: left and right stay themselves.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class QueryCopy:
    """How a copy differs from its slice.

    Attributes:
        shift_px: `(down, right)`, applied after the scale.
        scale: about the slice's centre; above 1 enlarges.
        gamma: exponent on the intensities between the slice's own minimum and maximum; below 1 brightens.
    """

    shift_px: tuple[float, float]
    scale: float
    gamma: float

    def make(self, images: Tensor) -> Tensor:
        """Change slices `(n, 1, H, W)`; what comes in from outside is their minimum."""
        low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
        reach = (high - low).clamp(min=torch.finfo(images.dtype).tiny)
        bent = ((images - low) / reach).pow(self.gamma)
        down, right = self.shift_px
        moved = _move(bent, (-down / self.scale, -right / self.scale), 1 / self.scale)
        return moved * reach + low

    def undo(self, probabilities: Tensor) -> Tensor:
        """Move the probabilities `(n, H, W)` of a copy back to its slice.

        They are 0 where the copy does not reach.
        """
        return _move(probabilities[:, None], self.shift_px, self.scale)[:, 0]


# Shifts of half a feature's width (a feature stands for 4 px), so that the copies are sampled between the
# slice's own features. Scales and exponents lie well within what training varies, and come in opposite pairs:
# odd numbers of copies are balanced.
CHANGES = (
    QueryCopy(shift_px=(2.0, 2.0), scale=1.1, gamma=0.8),
    QueryCopy(shift_px=(-2.0, -2.0), scale=1 / 1.1, gamma=1 / 0.8),
    QueryCopy(shift_px=(2.0, -2.0), scale=1.05, gamma=1 / 0.8),
    QueryCopy(shift_px=(-2.0, 2.0), scale=1 / 1.05, gamma=0.8),
)
MAX_COPIES = 1 + len(CHANGES)


def average_over_copies(
    segment: Callable[[Tensor], Iterable[Tensor]], images: Tensor, n_copies: int
) -> Iterator[Tensor]:
    """Average the segmentations of a scan's slices and of changed copies of them.

    The copies go through one after the other, so that no more encoded slices are held at a time than without
    them; held are instead the probabilities of all requests. A pixel's mean is over the copies that show it.

    Args:
        segment: answers requests for slices of the scan that it is given, with a probability map `(n, H, W)`
            each; see `segment_scan`.
        images: the scan's slices, `(Z, 1, H, W)`.
        n_copies: 1 to `MAX_COPIES`: the slices themselves and the first so many of `CHANGES`.

    Yields:
        For each request its mean probabilities `(n, H, W)`. With a single copy they are what `segment` gives,
        as it gives them.

    Raises:
        ValueError: there are not so many copies.
    """
    if not 1 <= n_copies <= MAX_COPIES:
        raise ValueError(f"n_copies must be 1 to {MAX_COPIES}, got {n_copies}")
    if n_copies == 1:
        yield from segment(images)
        return
    totals = list(segment(images))
    shown = images.new_ones(1, *images.shape[-2:])
    n_shown = shown
    for change in CHANGES[: n_copies - 1]:
        for index, found in enumerate(segment(change.make(images))):
            totals[index] = totals[index] + change.undo(found)
        n_shown = n_shown + change.undo(shown)
    for total in totals:
        yield total / n_shown.to(total)


def _move(images: Tensor, shift_px: tuple[float, float], scale: float) -> Tensor:
    """Take each pixel of `(n, 1, H, W)` from `scale` times its place about the centre, plus a shift.

    Interpolated bilinearly; 0 outside.
    """
    height, width = images.shape[-2:]
    down, right = shift_px
    # In the units of `affine_grid` the slice is 2 wide and high, its centre 0.
    places = images.new_tensor([[scale, 0, 2 * right / width], [0, scale, 2 * down / height]])
    grid = F.affine_grid(places.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
