"""Distances between the surfaces of two masks, in mm, weighted by area.

The definitions are those of Nikolov et al., "Clinically applicable segmentation of head and neck anatomy",
JMIR 2021: a surface element lies at each corner where eight voxels meet that are not all equal, and its area
is that of their marching cube. Weighting by area matters for thick slices: a count of border voxels gives the
flat end of an organ, which has many small ones, several times the weight of its sides.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

HAUSDORFF_QUANTILE = 0.95
_N_CORNERS = 8


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance of each surface element of two masks to the other mask's surface.

    Attributes:
        distances_mm: of the elements of either mask, ascending; two arrays `(n,)`.
        areas_mm2: of the same elements.
    """

    distances_mm: tuple[np.ndarray, np.ndarray]
    areas_mm2: tuple[np.ndarray, np.ndarray]

    @property
    def hd95_mm(self) -> float:
        """The larger of both 95th percentiles of the distance over the surface area."""
        percentiles = []
        for distances, areas in zip(self.distances_mm, self.areas_mm2, strict=True):
            share = np.cumsum(areas) / areas.sum()
            index = np.searchsorted(share, HAUSDORFF_QUANTILE)
            percentiles.append(distances[min(index, len(distances) - 1)])
        return float(max(percentiles))

    @property
    def assd_mm(self) -> float:
        """The mean distance over the area of both surfaces."""
        moments = [
            float(distances @ areas)
            for distances, areas in zip(self.distances_mm, self.areas_mm2, strict=True)
        ]
        return sum(moments) / self._total_area_mm2

    def nsd(self, tolerance_mm: float) -> float:
        """Return the share of the area of both surfaces within a tolerance of the other."""
        near = [
            float(areas[distances <= tolerance_mm].sum())
            for distances, areas in zip(self.distances_mm, self.areas_mm2, strict=True)
        ]
        return sum(near) / self._total_area_mm2

    @property
    def _total_area_mm2(self) -> float:
        return sum(float(areas.sum()) for areas in self.areas_mm2)


def measure_surfaces(
    predicted: np.ndarray, true: np.ndarray, spacing_mm: tuple[float, float, float]
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks that hold voxels.

    Voxels outside the array count as empty, so a mask has a surface at the array's border, too.

    Args:
        predicted, true: `(Z, H, W)`, binary.
        spacing_mm: of the voxels along `(z, y, x)`.

    Raises:
        ValueError: the shapes differ, or a mask is empty.
    """
    if predicted.shape != true.shape or predicted.ndim != len(spacing_mm):
        raise ValueError(f"masks must have the same 3D shape, got {predicted.shape} and {true.shape}")
    masks = [predicted.astype(bool), true.astype(bool)]
    if not all(mask.any() for mask in masks):
        raise ValueError("both masks must hold voxels; an empty one has no surface")
    box = ndimage.find_objects((masks[0] | masks[1]).astype(np.uint8))[0]
    codes = [_neighbourhood_codes(mask[box]) for mask in masks]
    surfaces = [(code != 0) & (code != 2**_N_CORNERS - 1) for code in codes]
    to_surface = [ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces]
    area_of_code = _marching_cube_areas(tuple(map(float, spacing_mm)))
    distances, areas = [], []
    for code, surface, to_other in zip(codes, surfaces, to_surface[::-1], strict=True):
        surface_distances = to_other[surface]
        order = np.argsort(surface_distances, kind="stable")
        distances.append(surface_distances[order])
        areas.append(area_of_code[code[surface]][order])
    return SurfaceDistances(tuple(distances), tuple(areas))


def _neighbourhood_codes(mask: np.ndarray) -> np.ndarray:
    """Encode the eight voxels around each corner of the grid as bits, `(Z + 1, H + 1, W + 1)`."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([n - 1 for n in padded.shape], np.uint8)
    for bit in range(_N_CORNERS):
        offsets = bit >> 2 & 1, bit >> 1 & 1, bit & 1
        window = tuple(slice(start, start + n) for start, n in zip(offsets, codes.shape, strict=True))
        codes |= padded[window] << bit
    return codes


@lru_cache(maxsize=64)
def _marching_cube_areas(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the surface area inside the cube between eight voxels, for each of their 256 codes, in mm²."""
    areas = np.zeros(2**_N_CORNERS)
    for code in range(1, len(areas) - 1):
        bits = [code >> bit & 1 for bit in range(_N_CORNERS)]
        cube = np.array(bits, dtype=np.float32).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(cube, 0.5, spacing=spacing_mm, method="lorensen")
        areas[code] = mesh_surface_area(vertices, faces)
    # A cube with diagonal corners has two triangulations; the smaller one, so that a mask and its complement
    # have the same surface.
    return np.minimum(areas, areas[::-1])
