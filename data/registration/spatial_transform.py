"""Spatial transforms: warp label maps, map slices, and measure folding."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from util.errors import UserError
from util.io.image_io import Geometry, to_sitk
from util.io.resampling import resample_linear

_N_AFFINE, _N_FIXED_AFFINE, _N_FIXED_BSPLINE = 12, 3, 18
_LATTICE = np.linspace(0.25, 0.75, 7)  # points that represent a slice: its central half, where the body is


@dataclass(frozen=True)
class SpatialTransform:
    """Map positions in the query to positions in the support: B-spline, then affine.

    Positions are patient (x, y, z) in mm. Equality is bitwise for finite parameters.

    Attributes:
        affine: 12 parameters of ITK's AffineTransform: matrix by rows, translation.
        center_mm: fixed point of the affine matrix.
        bspline: coefficients of ITK's cubic BSplineTransform in mm; empty without a B-spline.
        bspline_grid: its 18 fixed parameters: size, origin, spacing and direction of the control points.

    Raises:
        ValueError: a number of parameters is wrong, or one is not finite.
    """

    affine: tuple[float, ...]
    center_mm: tuple[float, ...]
    bspline: tuple[float, ...] = ()
    bspline_grid: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n_grid = _N_FIXED_BSPLINE if self.bspline else 0
        n_bspline = 3 * int(np.prod(self.bspline_grid[:3])) if self.bspline_grid else 0
        lengths = tuple(map(len, (self.affine, self.center_mm, self.bspline_grid, self.bspline)))
        if lengths != (expected := (_N_AFFINE, _N_FIXED_AFFINE, n_grid, n_bspline)):
            raise ValueError(f"transform: must have {expected} parameters, got {lengths}")
        if not np.isfinite([*self.affine, *self.center_mm, *self.bspline, *self.bspline_grid]).all():
            raise ValueError("transform: parameters must be finite")

    @classmethod
    def from_sitk(cls, affine: sitk.AffineTransform, bspline: sitk.BSplineTransform | None = None):
        """Create from SimpleITK transforms."""
        splines = () if bspline is None else (bspline.GetParameters(), bspline.GetFixedParameters())
        return cls(affine.GetParameters(), affine.GetFixedParameters(), *splines)

    def to_sitk(self) -> sitk.Transform:
        """Convert to a SimpleITK transform, as resampling takes it."""
        affine = sitk.AffineTransform(3)
        affine.SetFixedParameters(self.center_mm)
        affine.SetParameters(self.affine)
        if not self.bspline:
            return affine
        return sitk.CompositeTransform([affine, self.bspline_to_sitk()])  # applied from last to first

    def bspline_to_sitk(self) -> sitk.BSplineTransform:
        """Convert the B-spline alone; only valid with a B-spline."""
        bspline = sitk.BSplineTransform(3, 3)
        bspline.SetFixedParameters(self.bspline_grid)
        bspline.SetParameters(self.bspline)
        return bspline


def warp_label_map(
    label_map: np.ndarray,
    geometry: Geometry,
    transform: SpatialTransform,
    query_geometry: Geometry,
    *,
    labels: Iterable[int],
) -> dict[int, np.ndarray]:
    """Warp a support's labels to the query's grid.

    Args:
        label_map: `(Z, H, W)`, integers.
        geometry: its grid.
        transform: from `register`.
        query_geometry: the grid of the results.
        labels: the labels to warp; one that the label map lacks gives zeros.

    Returns:
        For each label its probability, float32 0..1 of the query's shape: the linearly interpolated mask, 0
        outside the support's grid.

    Raises:
        UserError: the label map's shape is not the geometry's.
    """
    if label_map.shape != geometry.shape:
        raise UserError(f"label map: shape must be the geometry's {geometry.shape}, got {label_map.shape}")
    # Evaluated once for all labels: a B-spline takes ten times as long as the interpolation.
    grid = to_sitk(np.empty(query_geometry.shape, np.uint8), query_geometry)
    to_support = sitk.DisplacementFieldTransform(_displacement_field(transform.to_sitk(), grid))
    return {
        label: resample_linear(
            (label_map == label).astype(np.uint8), geometry, query_geometry, fill=0.0, transform=to_support
        )
        for label in labels
    }


def nearest_support_slice(
    slice_idx: int, transform: SpatialTransform, *, query_geometry: Geometry, support_geometry: Geometry
) -> int:
    """Find the support slice that corresponds to a query slice.

    Args:
        slice_idx: position of the query slice, 0 to `Z - 1`.
        transform: from `register`.
        query_geometry, support_geometry: the scans' grids.

    Returns:
        Position of the slice nearest to the mean position of points in the central half of the query slice;
        the first or the last one if that is outside the support.

    Raises:
        UserError: the query has no such slice.
    """
    n_slices, height, width = query_geometry.shape
    if not 0 <= slice_idx < n_slices:
        raise UserError(f"slice {slice_idx}: must be 0 to {n_slices - 1}, a slice of the query")
    grid = np.meshgrid(slice_idx, _LATTICE * (height - 1), _LATTICE * (width - 1), indexing="ij")
    points_mm = query_geometry.position_mm(np.stack(grid, axis=-1).reshape(-1, 3))
    to_support = transform.to_sitk()
    mapped_mm = [to_support.TransformPoint(point) for point in points_mm.tolist()]
    position = support_geometry.index_at(mapped_mm)[:, 0].mean()
    return int(np.clip(np.rint(position), 0, support_geometry.shape[0] - 1))


def _displacement_field(transform: sitk.Transform, grid: sitk.Image) -> sitk.Image:
    return sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        grid.GetSize(),
        grid.GetOrigin(),
        grid.GetSpacing(),
        grid.GetDirection(),
    )


def max_stretch(transform: SpatialTransform) -> float:
    """Return the largest factor by which the affine part changes a length.

    Shrinking counts by the inverse factor, so it is at least 1.
    """
    factors = np.linalg.svd(np.reshape(transform.affine[:9], (3, 3)), compute_uv=False)
    return float(max(factors[0], 1 / max(factors[-1], np.finfo(float).tiny)))


def min_jacobian(transform: SpatialTransform, grid: sitk.Image, region: np.ndarray) -> float:
    """Return the smallest Jacobian determinant of a transform's B-spline.

    Args:
        transform: the transform; 1.0 without a B-spline.
        grid: an image whose grid samples the B-spline, finer than its control points.
        region: bool of the grid's shape, the voxels that count; all of them if it is empty.

    Returns:
        The smallest determinant by central differences; 1 keeps the volume, 0 or less folds.
    """
    if not transform.bspline:
        return 1.0
    displacement_mm = sitk.GetArrayFromImage(_displacement_field(transform.bspline_to_sitk(), grid))
    index_to_mm = np.reshape(grid.GetDirection(), (3, 3)) * grid.GetSpacing()
    steps = np.stack(np.gradient(displacement_mm, axis=(2, 1, 0)), axis=-1)  # (Z, H, W, 3 mm, 3 axes)
    determinants = np.linalg.det(index_to_mm + steps) / np.linalg.det(index_to_mm)
    return float(determinants[region].min() if region.any() else determinants.min())
