"""Labels, slices and folding follow the transform, against SciPy and answers by hand."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from data.registration.spatial_transform import (
    SpatialTransform,
    max_stretch,
    min_jacobian,
    nearest_support_slice,
    warp_label_map,
)
from tests.data.registration.synthetic_bodies import grid, positions_mm, rotation
from util.errors import UserError
from util.io.image_io import to_sitk

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRID = grid((10, 16, 14), (6.0, 3.0, 4.0), rotation(0, 20) @ rotation(2, 15))


def affine(matrix=IDENTITY, translation_mm=(0.0, 0.0, 0.0), center_mm=(0.0, 0.0, 0.0)):
    return SpatialTransform((*np.ravel(matrix).tolist(), *translation_mm), center_mm)


def with_bspline(geometry, coefficients_mm):
    """Return the identity with a B-spline of three meshes per axis."""
    image = to_sitk(np.zeros(geometry.shape, np.uint8), geometry)
    bspline = sitk.BSplineTransformInitializer(image, [3, 3, 3], 3)
    bspline.SetParameters(np.ravel(coefficients_mm).tolist())
    return SpatialTransform.from_sitk(sitk.AffineTransform(3), bspline)


def random_bspline(scale_mm, seed=0):
    return with_bspline(GRID, scale_mm * np.random.default_rng(seed).standard_normal((3, 6, 6, 6)))


@pytest.mark.parametrize("bends", [False, True])
def test_probabilities_of_labels_are_scipys_linear_interpolation_of_their_masks(bends):
    support_grid = grid((12, 15, 17), (5.0, 3.5, 3.0), rotation(1, -10), centre_mm=(3.0, 1.0, -2.0))
    label_map = np.random.default_rng(0).integers(0, 3, support_grid.shape)
    matrix, shift_mm = rotation(2, 12) @ np.diag([1.1, 0.9, 1.0]), np.array([3.0, -2.0, 5.0])
    spline = random_bspline(2.0)
    transform = SpatialTransform(
        affine(matrix, shift_mm).affine,
        (0.0, 0.0, 0.0),
        *((spline.bspline, spline.bspline_grid) if bends else ()),
    )
    points_mm = positions_mm(GRID)
    if bends:
        bent = [spline.to_sitk().TransformPoint(point) for point in points_mm.reshape(-1, 3).tolist()]
        points_mm = np.reshape(bent, points_mm.shape)
    index = support_grid.index_at(points_mm @ matrix.T + shift_mm)
    inside = ((index >= 0) & (index <= np.array(support_grid.shape) - 1)).all(axis=-1)
    warped = warp_label_map(label_map, support_grid, transform, GRID, labels=[1, 2, 7])
    assert inside.mean() > 0.5
    for label in (1, 2):
        mask = (label_map == label).astype(float)
        expected = ndimage.map_coordinates(mask, np.moveaxis(index, -1, 0), order=1)
        np.testing.assert_allclose(warped[label][inside], expected[inside], atol=1e-5)
        assert warped[label].dtype == np.float32
        assert warped[label].min() >= 0
        assert warped[label].max() <= 1
    assert not warped[7].any()
    outside = ((index < -1) | (index > np.array(support_grid.shape))).any(axis=-1)
    assert not warped[1][outside].any()


def test_a_label_map_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"label map: shape must be the geometry's \(10, 16, 14\)"):
        warp_label_map(np.zeros((9, 16, 14), int), GRID, affine(), GRID, labels=[1])


@pytest.mark.parametrize(
    ("slice_idx", "shift_slices", "expected"), [(4, 2, 6), (4, -1.4, 3), (8, 5, 9), (1, -4, 0)]
)
def test_a_slice_is_mapped_along_the_normal_and_stays_within_the_support(slice_idx, shift_slices, expected):
    shift_mm = tuple((shift_slices * 6.0 * GRID.axes[:, 0]).tolist())
    mapped = nearest_support_slice(
        slice_idx, affine(translation_mm=shift_mm), query_geometry=GRID, support_geometry=GRID
    )
    assert mapped == expected


def test_slices_of_a_finer_support_have_larger_indices():
    fine = grid((30, 16, 14), (2.0, 3.0, 4.0), rotation(0, 20) @ rotation(2, 15))
    mapped = [
        nearest_support_slice(i, affine(), query_geometry=GRID, support_geometry=fine) for i in range(10)
    ]
    assert mapped == [3 * i + 1 for i in range(10)]


@pytest.mark.parametrize("slice_idx", [-1, 10])
def test_a_slice_outside_the_query_is_refused(slice_idx):
    with pytest.raises(UserError, match="must be 0 to 9"):
        nearest_support_slice(slice_idx, affine(), query_geometry=GRID, support_geometry=GRID)


def jacobian_of(transform, region=None):
    image = to_sitk(np.zeros(GRID.shape, np.uint8), GRID)
    return min_jacobian(transform, image, np.ones(GRID.shape, bool) if region is None else region)


def test_the_jacobian_of_a_linear_displacement_is_that_of_its_matrix():
    # A B-spline whose coefficients are linear in position is linear itself; on oblique axes, too.
    spline = random_bspline(0.0)
    size, origin, spacing, direction = np.split(np.array(spline.bspline_grid), [3, 6, 9])
    index = np.stack(np.indices(size.astype(int)[::-1]), axis=-1)[..., ::-1]
    control_mm = origin + (index * spacing) @ direction.reshape(3, 3).T
    matrix = np.array([[0.1, 0.2, 0.0], [0.0, -0.3, 0.1], [0.05, 0.0, 0.2]])
    bent = with_bspline(GRID, np.moveaxis(control_mm @ matrix.T, -1, 0))
    assert jacobian_of(bent) == pytest.approx(np.linalg.det(np.eye(3) + matrix), abs=1e-6)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (rotation(0, 30), 1.0),
        (rotation(1, 20) @ np.diag([1.5, 1.0, 0.8]) @ rotation(2, 50), 1.5),
        (np.diag([1.1, 0.5, -1.0]), 2.0),  # shrinking counts by its inverse, a mirror does not
        (np.diag([1.0, 1.0, 0.0]), np.inf),
    ],
)
def test_the_stretch_is_the_largest_along_any_direction(matrix, expected):
    assert min(max_stretch(affine(matrix)), 1e9) == pytest.approx(min(expected, 1e9))


def test_folding_gives_a_negative_jacobian_only_where_it_counts():
    folded = random_bspline(25.0)
    assert jacobian_of(folded) < 0
    assert jacobian_of(random_bspline(0.5)) > 0.5
    assert jacobian_of(affine(np.diag([-2.0, 1.0, 1.0]))) == 1.0
    one_voxel = np.zeros(GRID.shape, bool)
    one_voxel[5, 8, 7] = True
    assert jacobian_of(folded, one_voxel) > jacobian_of(folded)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((IDENTITY, (0.0,) * 3), "12"),
        (((*IDENTITY, 0.0, 0.0, float("nan")), (0.0,) * 3), "finite"),
        (((*IDENTITY, 0.0, 0.0, 0.0), (0.0,) * 3, (1.0,) * 5, (1.0,) * 18), "parameters"),
    ],
)
def test_incomplete_parameters_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        SpatialTransform(*parts)
