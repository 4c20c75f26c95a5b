"""Masks, features and calls that the tests of the prototypes share."""

import torch

from models.prototypes import BACKGROUND_AREA_LIMIT, FOREGROUND_AREA_LIMIT, Prototypes, extract_prototypes
from tests.models import literal

LIMITS = (BACKGROUND_AREA_LIMIT, FOREGROUND_AREA_LIMIT)
CLASSES = (literal.BACKGROUND, literal.FOREGROUND)


def one_shot(global_, region, valid):
    """Return the prototypes of one shot."""
    shot_valid = torch.ones(len(global_), 1, dtype=torch.bool)
    return Prototypes(global_, region, valid, shot_global=global_[:, None], shot_valid=shot_valid)


def random_features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coordinates(size_px):
    """Features (1, 1, 2, h, w) that upsample to each pixel's (row, column)."""
    grid = [-(-n_px // 4) for n_px in size_px]
    rows = torch.linspace(0, size_px[0] - 1, grid[0], dtype=torch.float64)
    columns = torch.linspace(0, size_px[1] - 1, grid[1], dtype=torch.float64)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None, None]


def disc(size_px, centre, radius_px):
    rows, columns = torch.meshgrid(*(torch.arange(n_px) for n_px in size_px), indexing="ij")
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius_px**2).double()


def box(size_px, rows, columns):
    mask = torch.zeros(size_px, dtype=torch.float64)
    mask[slice(*rows), slice(*columns)] = 1
    return mask


def tile(size_px, area_px):
    tile = torch.zeros(size_px, dtype=torch.float64)
    tile.view(-1)[:area_px] = 1
    return tile


def extract(features, mask, class_index, **kwargs):
    """One image's global prototype (C,) and the region prototypes that count (P, C)."""
    result = extract_prototypes(
        features.reshape(1, 1, *features.shape[-3:]),
        mask[None, None],
        area_limit=LIMITS[class_index],
        **kwargs,
    )
    return result.global_[0], result.region[0][result.valid[0]]


def corners_taken(mask, class_index, **kwargs):
    """The corners of the windows whose prototypes are taken, for a mask that is full inside each of them."""
    _, region = extract(coordinates(tuple(mask.shape)), mask, class_index, **kwargs)
    return [tuple((centre - 7.5).round().int().tolist()) for centre in region]
