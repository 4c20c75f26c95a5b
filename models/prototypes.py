"""Global and region prototypes: masked means of features.

They are taken without upsampling the features. Prototypes are means of the features upsampled to the image
grid. Upsampling and averaging are both linear, so a mean is a weighted sum of the `h x w` features, its
weights the adjoint of the upsampling applied to mask and window: `Uy^T (mask in window) Ux`. Nothing of image
size times channels is ever formed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.precision import full_precision, upcast

WINDOW_PX = 16
STRIDE_PX = 8
MAX_WINDOWS = 150  # region prototypes of one image and class
MAX_PIXELS = 100  # single pixels that stand in where no window counts
AREA_EPSILON = 1e-5
_LOW_32 = (1 << 32) - 1

# A window counts when 100 times its mask area reaches the smaller of this and the class area in the image:
# whole numbers for the design's min(0.95 * 256, n_fg / 100) and min(256, n_bg / 100).
FOREGROUND_AREA_LIMIT = 95 * WINDOW_PX**2
BACKGROUND_AREA_LIMIT = 100 * WINDOW_PX**2


@dataclass(frozen=True)
class Prototypes:
    """The prototypes of one class, of fixed size.

    Attributes:
        global_: `(B, C)`, the masked mean over all shots; zero for an empty mask.
        region: `(B, P, C)`, of all shots; rows that do not count are arbitrary.
        valid: `(B, P)` bool, the rows that count.
        shot_global: `(B, S, C)`, the masked mean of each shot.
        shot_valid: `(B, S)` bool, the shots whose mask is not empty; all of them if every mask is empty.
    """

    global_: Tensor
    region: Tensor
    valid: Tensor
    shot_global: Tensor
    shot_valid: Tensor

    @property
    def n_shots(self) -> int:
        """Number of shots."""
        return self.shot_global.shape[1]

    def pool(self) -> tuple[Tensor, Tensor]:
        """Return the global prototypes of all shots and the region ones, and which count.

        These are `(B, S + P, C)` and `(B, S + P)` bool.
        """
        vectors = torch.cat([self.shot_global, self.region], dim=1)
        return vectors, torch.cat([self.shot_valid, self.valid], dim=1)


def bilinear_matrix(n_out: int, n_in: int, *, device: torch.device | None = None) -> Tensor:
    """Build the matrix of bilinear upsampling along one axis, `align_corners=True`.

    Returns:
        `(n_out, n_in)` float32; rows sum to 1.
    """
    # Distances of positions and knots are fractions over this; whole numbers keep them exact on every device.
    unit = max(n_out - 1, 1)
    position = torch.arange(n_out, device=device) * (n_in - 1)
    knot = torch.arange(n_in, device=device) * unit
    return 1 - (position[:, None] - knot[None, :]).abs().clamp(max=unit).float() / unit


def extract_prototypes(
    features: Tensor,
    masks: Tensor,
    *,
    area_limit: int,
    seeds: Tensor | None = None,
) -> Prototypes:
    """Extract the prototypes of one class from every shot of every episode.

    Args:
        features: `(B, S, C, h, w)`.
        masks: `(B, S, H, W)`, 1 on the class and 0 elsewhere.
        area_limit: `FOREGROUND_AREA_LIMIT` or `BACKGROUND_AREA_LIMIT`.
        seeds: int64 seeds `(B,)`, one per episode: where a class has more windows (or stand-in pixels) than
            are used, they are sampled at random. Without seeds evenly spaced ones in raster order are taken.

    Returns:
        The prototypes, float32 or wider; their number depends on the shapes alone.
    """
    with full_precision(features):
        return _extract(upcast(features), masks, area_limit=area_limit, seeds=seeds)


def _extract(features: Tensor, masks: Tensor, *, area_limit: int, seeds: Tensor | None) -> Prototypes:
    n_episodes, n_channels = features.shape[0], features.shape[2]
    flat = features.flatten(-2).transpose(-1, -2)
    masks = masks.to(flat.dtype)
    height, width = masks.shape[-2:]
    rows = bilinear_matrix(height, features.shape[-2], device=flat.device).to(flat.dtype)
    columns = bilinear_matrix(width, features.shape[-1], device=flat.device).to(flat.dtype)

    area = masks.sum(dim=(1, 2, 3))
    global_weights = (rows.T @ masks @ columns).flatten(-2)
    global_ = torch.einsum("bsl,bslc->bc", global_weights, flat) / (area + AREA_EPSILON)[:, None]
    shot_global, shot_valid = global_[:, None], torch.ones_like(area, dtype=torch.bool)[:, None]
    if masks.shape[1] > 1:
        shot_area = masks.sum(dim=(2, 3))
        shot_global = torch.einsum("bsl,bslc->bsc", global_weights, flat)
        shot_global = shot_global / (shot_area + AREA_EPSILON)[..., None]
        shot_valid = (shot_area > 0) | (area == 0)[:, None]

    weights, valid = _region_weights(masks, rows, columns, area_limit=area_limit, seeds=seeds)
    region = weights @ flat
    return Prototypes(
        global_=global_,
        region=region.reshape(n_episodes, -1, n_channels),
        valid=valid.reshape(n_episodes, -1),
        shot_global=shot_global,
        shot_valid=shot_valid,
    )


def _region_weights(
    masks: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    area_limit: int,
    seeds: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Compute the weights `(B, S, P, h * w)` of the region prototypes.

    Their product with the features gives the prototypes. Returns also which of these count.
    """
    top, left, single, valid = _choose_windows(masks, area_limit=area_limit, seeds=seeds)
    reach = torch.arange(WINDOW_PX, device=masks.device)
    in_rows, in_columns = top[..., None] + reach, left[..., None] + reach
    # Padding by a window lets a single pixel at the last row or column be read as a window's first.
    padded = F.pad(masks, (0, WINDOW_PX, 0, WINDOW_PX))
    indices = in_rows[..., :, None] * padded.shape[-1] + in_columns[..., None, :]
    patches = padded.flatten(-2).gather(-1, indices.flatten(-3)).view(indices.shape)
    first_only = F.pad(patches.new_ones(1, 1), (0, WINDOW_PX - 1, 0, WINDOW_PX - 1))
    patches = torch.where(single[..., None, None], patches * first_only, patches)
    patches = patches / patches.sum(dim=(-1, -2), keepdim=True).clamp(min=1)
    row_weights = F.pad(rows, (0, 0, 0, WINDOW_PX))[in_rows]
    column_weights = F.pad(columns, (0, 0, 0, WINDOW_PX))[in_columns]
    weights = row_weights.transpose(-1, -2) @ (patches @ column_weights)
    return weights.flatten(-2), valid


def choose_regions(masks: Tensor, *, area_limit: int) -> Tensor:
    """Return the positions of the region prototypes of one class.

    They are those selected without seeds.

    Args:
        masks: `(1, 1, H, W)`, 1 on the class and 0 elsewhere.
        area_limit: as in `extract_prototypes`.

    Returns:
        `(P, 3)` int64: top row, left column and side in px; a side of 1 is a single pixel.
    """
    top, left, single, valid = _choose_windows(masks, area_limit=area_limit, seeds=None)
    side = torch.where(single.expand_as(top), 1, WINDOW_PX)
    return torch.stack([top, left, side], dim=-1)[valid]


def _choose_windows(
    masks: Tensor, *, area_limit: int, seeds: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose the windows of each image.

    Returns each one's top row, left column, whether it is a single pixel and whether it counts.
    """
    n_episodes, n_shots, height, width = masks.shape
    short_height, short_width = max(WINDOW_PX - height, 0), max(WINDOW_PX - width, 0)
    padded = F.pad(masks.flatten(0, 1)[:, None], (0, short_width, 0, short_height))
    areas = F.avg_pool2d(padded, WINDOW_PX, STRIDE_PX)[:, 0] * WINDOW_PX**2
    per_row = areas.shape[-1]
    areas = areas.view(n_episodes, n_shots, -1)
    class_area = masks.sum(dim=(-1, -2))[..., None]
    qualifies = (100 * areas >= class_area.clamp(max=area_limit)) & (areas > 0)
    if short_height or short_width:
        qualifies = torch.zeros_like(qualifies)  # no whole window fits

    n_slots = max(min(MAX_WINDOWS, areas.shape[-1]), MAX_PIXELS)
    window, window_counts = _choose(qualifies, limit=MAX_WINDOWS, n_slots=n_slots, seeds=seeds)
    pixel, pixel_counts = _choose(masks.flatten(-2) > 0, limit=MAX_PIXELS, n_slots=n_slots, seeds=seeds)
    single = ~qualifies.any(dim=-1, keepdim=True).expand_as(window_counts)
    top = torch.where(single, pixel // width, window // per_row * STRIDE_PX)
    left = torch.where(single, pixel % width, window % per_row * STRIDE_PX)
    return top, left, single, torch.where(single, pixel_counts, window_counts)


def _choose(qualifies: Tensor, *, limit: int, n_slots: int, seeds: Tensor | None) -> tuple[Tensor, Tensor]:
    """Choose at most `limit` qualifying candidates, in a fixed number of slots.

    Args:
        qualifies: `(B, S, M)` bool.
        seeds: as in `extract_prototypes`.

    Returns:
        Candidates' indices `(B, S, n_slots)` and which of the slots are filled, of the same shape.
    """
    n_candidates = qualifies.shape[-1]
    count = qualifies.sum(dim=-1, keepdim=True)
    slot = torch.arange(n_slots, device=qualifies.device)
    filled = slot < count.clamp(max=limit)
    if seeds is None:
        spaced = torch.where(count > limit, slot * count // limit, slot)
        indices = torch.searchsorted(qualifies.cumsum(dim=-1), spaced + 1)
        return indices.clamp(max=n_candidates - 1), filled
    keys = torch.where(qualifies, _random_keys(seeds, qualifies.shape[1:]), 1 << 32)
    # The lowest of random keys, which are all different, are a uniform sample without replacement.
    lowest = keys.topk(min(n_slots, n_candidates), dim=-1, largest=False).indices
    return F.pad(lowest, (0, max(n_slots - n_candidates, 0))), filled


def _random_keys(seeds: Tensor, shape: torch.Size) -> Tensor:
    """Assign every candidate of shape `(S, M)` a random key, `(B, S, M)` int64 below 2^32.

    A hash of seed and position: the same on every device, without a random state or a copy from the host.
    """
    base = _scramble(_scramble(seeds & _LOW_32) ^ (seeds >> 32 & _LOW_32))
    position = torch.arange(shape.numel(), device=seeds.device).view(shape)
    return _scramble(base[:, None, None] + position & _LOW_32)


def _scramble(x: Tensor) -> Tensor:
    """Permute the 32-bit numbers so that each bit of the result depends on all bits.

    A multiply-xorshift finaliser; constants: Wellons, "Prospecting for hash functions", 2018.
    """
    x = (x ^ x >> 16) * 0x7FEB352D & _LOW_32
    x = (x ^ x >> 15) * 0x846CA68B & _LOW_32
    return x ^ x >> 16
