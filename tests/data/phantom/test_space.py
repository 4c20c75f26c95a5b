"""Fields, solids and the canvas of the phantom."""

import numpy as np
import pytest

from data.phantom.space import Axes, Canvas, Space, column, ellipsoid, smooth_field, vessel_tree


def _space(shape: tuple[int, int, int] = (21, 41, 41), step_mm: float = 1.0) -> Space:
    """An unbent space around the origin."""
    z_mm, y_mm, x_mm = ((np.arange(length) - length // 2) * step_mm for length in shape)
    z, y, x = np.meshgrid(z_mm, y_mm, x_mm, indexing="ij")
    return Space(axes=Axes(z_mm, y_mm, x_mm), x=x, y=y, z=z)


def test_a_sphere_gives_the_exact_depth_along_a_radius():
    depth = ellipsoid(_space(), (0.0, 0.0, 0.0), (10.0, 10.0, 10.0))
    along_x = depth[10, 20, 20:]
    np.testing.assert_allclose(along_x[[4, 10, 12]], [6, 0, -2], atol=1e-4)


def test_an_ellipsoid_ends_at_its_radii_around_its_centre():
    depth = ellipsoid(_space(), (2.0, -3.0, 1.0), (5.0, 7.0, 4.0))
    ends = [(11, 17, 27), (11, 17, 17), (11, 24, 22), (11, 10, 22), (15, 17, 22), (7, 17, 22)]
    np.testing.assert_allclose([depth[end] for end in ends], 0, atol=1e-5)
    assert (depth > 0).sum() == pytest.approx(4 / 3 * np.pi * 5 * 7 * 4, rel=0.05)


def test_a_quarter_turn_swaps_the_radii_in_the_plane():
    space = _space()
    turned = ellipsoid(space, (0.0, 0.0, 0.0), (5.0, 9.0, 4.0), roll_deg=90)
    np.testing.assert_allclose(turned, ellipsoid(space, (0.0, 0.0, 0.0), (9.0, 5.0, 4.0)), atol=1e-5)


def test_a_leaning_ellipsoid_shifts_with_height():
    depth = ellipsoid(_space(), (0.0, 0.0, 0.0), (4.0, 4.0, 9.0), lean=(0.5, 0.0))
    centre_x = [np.mean(np.nonzero(depth[z] > 0)[1]) - 20 for z in (6, 10, 14)]
    np.testing.assert_allclose(centre_x, [-2, 0, 2], atol=0.3)


def test_a_column_is_the_same_in_every_slice():
    depth = column(_space(), (3.0, 0.0), (4.0, 6.0))
    assert np.array_equal(depth[0], depth[-1])
    assert depth[0, 20, 23] == pytest.approx(4)
    assert depth[0, 26, 23] == pytest.approx(0)


def test_vessels_are_thin_and_winding():
    space = _space((40, 80, 80))
    inside = vessel_tree(space, np.random.default_rng(0), radius_mm=2, over_mm=20) > 0
    assert 0.005 < inside.mean() < 0.15
    assert inside.any(axis=(1, 2)).mean() > 0.5


@pytest.mark.parametrize("correlation_mm", [2.5, 6.0])
def test_a_field_has_mean_0_and_variance_1(correlation_mm):
    rng = np.random.default_rng(1)
    axes = Axes(*(np.arange(length, dtype=float) for length in (70, 80, 90)))
    field = smooth_field(rng, axes, correlation_mm)
    assert field.shape == (70, 80, 90)
    assert field.dtype == np.float32
    assert field.mean() == pytest.approx(0, abs=0.05)
    assert field.std() == pytest.approx(1, abs=0.05)


def test_a_field_is_smoother_the_longer_its_correlation():
    axes = Axes(*(np.arange(40, dtype=float) for _ in range(3)))
    jumps = [
        np.abs(np.diff(smooth_field(np.random.default_rng(2), axes, length), axis=2)).mean()
        for length in (3, 6, 20)
    ]
    assert jumps[0] > 1.5 * jumps[1] > 3 * jumps[2]


def test_a_field_on_its_nodes_is_the_spline_sum():
    # On a node, a cubic B-spline weighs its own node 2/3 and each neighbour 1/6; the lattice starts one
    # node early and ends two late.
    axes = Axes(*(np.arange(length, dtype=float) * 5 for length in (3, 4, 5)))
    field = smooth_field(np.random.default_rng(3), axes, 5.0)
    weights = np.random.default_rng(3).standard_normal((6, 7, 8), dtype=np.float32)
    spline = np.array([1 / 6, 2 / 3, 1 / 6])
    expected = np.zeros((3, 4, 5))
    for z, y, x in np.ndindex(3, 4, 5):
        corner = weights[z : z + 3, y : y + 3, x : x + 3]
        expected[z, y, x] = np.einsum("zyx,z,y,x", corner, spline, spline, spline)
    np.testing.assert_allclose(field, expected * (315 / 151) ** 1.5, rtol=1e-3, atol=1e-4)


def test_paint_covers_the_inside_half_covers_the_surface_and_leaves_the_outside():
    canvas = Canvas(_space((1, 1, 3)))
    canvas.signal[:] = 0.2
    cover = canvas.paint(np.array([[[5.0, 0.0, -5.0]]]), 0.8)
    np.testing.assert_allclose(cover[0, 0], [1, 0.5, 0])
    np.testing.assert_allclose(canvas.signal[0, 0], [0.8, 0.5, 0.2])
