"""Test-time augmentation: average over slightly changed versions of the slices.

The versions are fixed, and none is mirrored: left and right must not be exchanged.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Perturbation:
    """A fixed change of a slice, which can be undone.

    Attributes:
        shift_px: `(down, right)`, applied after the scale.
        scale: about the slice's centre; above 1 enlarges.
        gamma: exponent on the intensities between the slice's own minimum and maximum; below 1 brightens.
    """

    shift_px: tuple[float, float]
    scale: float
    gamma: float

    def apply(self, images: Tensor) -> Tensor:
        """Change slices `(n, 1, H, W)`; pixels from outside get their minimum."""
        low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
        reach = (high - low).clamp(min=torch.finfo(images.dtype).tiny)
        bent = ((images - low) / reach).pow(self.gamma)
        down, right = self.shift_px
        moved = _move(bent, (-down / self.scale, -right / self.scale), 1 / self.scale)
        return moved * reach + low

    def undo(self, probabilities: Tensor) -> Tensor:
        """Map the probabilities `(n, H, W)` of a changed slice back.

        They are 0 where the changed slice does not reach.
        """
        return _move(probabilities[:, None], self.shift_px, self.scale)[:, 0]


# Shifts of half a feature's width (a feature stands for 4 px), so that the versions are sampled between the
# slice's own features. Scales and exponents lie well within what training varies, and come in opposite pairs:
# odd numbers of versions are balanced.
PERTURBATIONS = (
    Perturbation(shift_px=(2.0, 2.0), scale=1.1, gamma=0.8),
    Perturbation(shift_px=(-2.0, -2.0), scale=1 / 1.1, gamma=1 / 0.8),
    Perturbation(shift_px=(2.0, -2.0), scale=1.05, gamma=1 / 0.8),
    Perturbation(shift_px=(-2.0, 2.0), scale=1 / 1.05, gamma=0.8),
)
MAX_VERSIONS = 1 + len(PERTURBATIONS)


def average_over_versions(
    segment: Callable[[Tensor], Iterable[Tensor]],
    images: Tensor,
    n_versions: int,
    *,
    on_version: Callable[[int, Tensor], None] = lambda index, probabilities: None,
) -> Iterator[Tensor]:
    """Average the segmentations of a scan's slices and of changed versions of them.

    The versions are segmented one after the other, so that no more encoded slices are held at a time than
    without them; the probabilities of all requests are held instead. A pixel's mean is over the versions that
    show it.

    Args:
        segment: takes the slices of the scan, and returns probabilities `(n, H, W)` for each request; see
            `segment_scan`.
        images: the scan's slices, `(Z, 1, H, W)`.
        n_versions: 1 to `MAX_VERSIONS`: the slices themselves and the first so many `PERTURBATIONS`.
        on_version: called, unless there is a single version, with each request's index and each version's
            probabilities, mapped back.

    Yields:
        For each request its mean probabilities `(n, H, W)`; with a single version those of `segment` itself.

    Raises:
        ValueError: there are not so many versions.
    """
    if not 1 <= n_versions <= MAX_VERSIONS:
        raise ValueError(f"n_versions must be 1 to {MAX_VERSIONS}, got {n_versions}")
    if n_versions == 1:
        yield from segment(images)
        return
    totals = list(segment(images))
    for index, result in enumerate(totals):
        on_version(index, result)
    visible = images.new_ones(1, *images.shape[-2:])
    n_visible = visible
    for change in PERTURBATIONS[: n_versions - 1]:
        for index, result in enumerate(segment(change.apply(images))):
            mapped = change.undo(result)
            on_version(index, mapped)
            totals[index] = totals[index] + mapped
        n_visible = n_visible + change.undo(visible)
    for total in totals:
        yield total / n_visible.to(total)


def _move(images: Tensor, shift_px: tuple[float, float], scale: float) -> Tensor:
    """Sample `(n, 1, H, W)` at each pixel's position, scaled about the centre and shifted.

    Interpolated bilinearly; 0 outside.
    """
    height, width = images.shape[-2:]
    down, right = shift_px
    # In the units of `affine_grid` the slice is 2 wide and high, its centre 0.
    affine = images.new_tensor([[scale, 0, 2 * right / width], [0, scale, 2 * down / height]])
    grid = F.affine_grid(affine.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
