"""Surface distances of known shapes, by hand and against a brute-force reading of the definition."""

import numpy as np
import pytest

from util.evaluation.surface_distances import measure_surfaces

ISOTROPIC = (1.0, 1.0, 1.0)
THICK_SLICES = (7.7, 1.25, 1.25)


def box(shape, *ranges):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*ends) for ends in ranges)] = True
    return mask


def ball(shape, spacing_mm, *, centre_mm, radius_mm):
    axes = [(np.arange(n) + 0.5) * step for n, step in zip(shape, spacing_mm, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return sum((x - c) ** 2 for x, c in zip(grid, centre_mm, strict=True)) <= radius_mm**2


def mesh_areas(cube, spacing_mm):
    """The area of the marching cubes of a whole mask: `skimage` again, but not corner by corner."""
    from skimage.measure import marching_cubes, mesh_surface_area

    padded = np.pad(cube, 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(padded, 0.5, spacing=spacing_mm, method="lorensen")
    return mesh_surface_area(vertices, faces)


def brute_force(mask, other, spacing_mm):
    """Each corner of `mask`'s surface: its distance to all corners of the other surface."""

    def corners(volume):
        padded = np.pad(volume, 1)
        result = []
        for corner in np.ndindex(*(n - 1 for n in padded.shape)):
            around = padded[tuple(slice(i, i + 2) for i in corner)]
            if around.any() and not around.all():
                result.append(np.multiply(corner, spacing_mm))
        return np.array(result)

    own, others = corners(mask), corners(other)
    return np.array([np.sqrt(((others - corner) ** 2).sum(axis=1)).min() for corner in own])


def test_equal_masks_have_no_distance():
    mask = box((6, 9, 9), (1, 4), (2, 7), (3, 8))
    result = measure_surfaces(mask, mask.copy(), THICK_SLICES)
    assert (result.hd95_mm, result.assd_mm, result.nsd(0.0)) == (0, 0, 1)


@pytest.mark.parametrize(("axis", "expected_mm"), [(0, 15.4), (1, 2.5), (2, 2.5)])
def test_single_voxels_two_steps_apart_are_as_far_apart_as_the_spacing(axis, expected_mm):
    # Every corner of a voxel is on its surface; half of them are one step from the other's nearest corner.
    voxel = box((7, 7, 7), (2, 3), (2, 3), (2, 3))
    result = measure_surfaces(voxel, np.roll(voxel, 2, axis), THICK_SLICES)
    assert result.hd95_mm == pytest.approx(expected_mm)
    assert result.assd_mm == pytest.approx(0.75 * expected_mm)


def test_a_shifted_block_of_thick_slices_has_the_distance_of_its_geometry():
    # 10 slices of 7.7 mm, 25 mm wide, shifted by 7.7 mm along z. Flat ends: 2 x 625 mm2, one 7.7 mm from the
    # other mask, one inside it and near the sides; sides: 4 x 25 x 77 mm2, of which a tenth is 0 to 7.7 mm
    # away. The mean is 1.2 mm; a count of border voxels would say 3.2 mm.
    mask = box((20, 40, 40), (5, 15), (10, 30), (10, 30))
    result = measure_surfaces(mask, np.roll(mask, 1, 0), THICK_SLICES)
    assert result.assd_mm == pytest.approx(1.2, abs=0.1)
    assert result.hd95_mm == pytest.approx(7.7)


@pytest.mark.parametrize("spacing_mm", [ISOTROPIC, (2.5, 1.0, 1.0)])
def test_concentric_balls_are_apart_by_the_difference_of_their_radii(spacing_mm):
    shape = tuple(round(72 / step) for step in spacing_mm)
    small, large = (
        ball(shape, spacing_mm, centre_mm=(36, 36, 36), radius_mm=radius_mm) for radius_mm in (24, 30)
    )
    result = measure_surfaces(small, large, spacing_mm)
    # Both surfaces are drawn with voxels, and lie on their corners.
    assert result.assd_mm == pytest.approx(6, abs=0.6 * max(spacing_mm))
    assert result.hd95_mm == pytest.approx(6, abs=0.6 * max(spacing_mm))
    assert (result.nsd(6 - max(spacing_mm) - 0.5), result.nsd(8)) == (0, 1)


def test_areas_are_those_of_the_whole_mesh():
    blob = ball((12, 24, 24), (2, 1, 1), centre_mm=(12, 12, 12), radius_mm=9)
    for mask in (blob, box((5, 8, 9), (0, 5), (2, 8), (0, 4))):
        result = measure_surfaces(mask, mask, (2.0, 1.0, 1.0))
        assert result.areas_mm2[0].sum() == pytest.approx(mesh_areas(mask, (2.0, 1.0, 1.0)), rel=1e-5)


def test_voxels_that_touch_at_an_edge_have_two_surfaces_and_so_have_holes():
    # A single voxel's surface: eight corners of sqrt(3) / 8 mm2. Of two that share an edge, each has its own.
    pair = np.zeros((2, 2, 1), dtype=bool)
    pair[[0, 1], [0, 1]] = True
    result = measure_surfaces(pair, pair, ISOTROPIC)
    assert result.areas_mm2[0].sum() == pytest.approx(2 * np.sqrt(3))
    inside = np.pad(pair, 1)
    hollow = np.ones((6, 6, 5), dtype=bool)
    whole = measure_surfaces(hollow, hollow, ISOTROPIC).areas_mm2[0].sum()
    hollow[1:5, 1:5, 1:4] = ~inside
    with_holes = measure_surfaces(hollow, hollow, ISOTROPIC).areas_mm2[0].sum()
    assert with_holes - whole == pytest.approx(2 * np.sqrt(3))


@pytest.mark.parametrize("spacing_mm", [ISOTROPIC, THICK_SLICES, (0.5, 2.0, 3.0)])
@pytest.mark.parametrize("touches_border", [False, True])
def test_distances_and_metrics_are_those_of_brute_force(spacing_mm, touches_border):
    rng = np.random.default_rng(1)
    masks = rng.random((2, 4, 6, 5)) < 0.08
    if not touches_border:
        masks = np.pad(masks, ((0, 0), (2, 2), (2, 2), (2, 2)))
    result = measure_surfaces(*masks, spacing_mm)
    percentiles = []
    for own, other, distances, areas in zip(
        masks, masks[::-1], result.distances_mm, result.areas_mm2, strict=True
    ):
        np.testing.assert_allclose(np.sort(brute_force(own, other, spacing_mm)), distances, atol=1e-9)
        shares = [areas[: i + 1].sum() / areas.sum() for i in range(len(areas))]
        percentiles.append(
            next(d for d, share in zip(distances, shares, strict=True) if share >= 0.95 - 1e-9)
        )
    assert result.hd95_mm == pytest.approx(max(percentiles))
    distances, areas = np.concatenate(result.distances_mm), np.concatenate(result.areas_mm2)
    assert result.assd_mm == pytest.approx(np.average(distances, weights=areas))
    near = np.average(distances <= 1.0, weights=areas)
    assert result.nsd(1.0) == pytest.approx(near)
    assert 0 < near < 1


def test_the_empty_surroundings_change_nothing_and_roles_can_be_swapped():
    rng = np.random.default_rng(2)
    masks = rng.random((2, 3, 6, 6)) < 0.4
    result = measure_surfaces(*masks, THICK_SLICES)
    for other in (
        measure_surfaces(*np.pad(masks, ((0, 0), (3, 1), (2, 5), (0, 4))), THICK_SLICES),
        measure_surfaces(*masks[::-1], THICK_SLICES),
    ):
        assert other.hd95_mm == pytest.approx(result.hd95_mm)
        assert other.assd_mm == pytest.approx(result.assd_mm)
        assert other.nsd(3.0) == pytest.approx(result.nsd(3.0))


@pytest.mark.parametrize("n_slices", [1, 2])
def test_a_mask_in_few_slices_has_a_surface(n_slices):
    mask = box((n_slices, 9, 9), (0, n_slices), (2, 6), (2, 6))
    result = measure_surfaces(mask, np.roll(mask, 2, 2), THICK_SLICES)
    assert result.hd95_mm == pytest.approx(2.5)


@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1)])
def test_empty_masks_are_refused(empty):
    masks = np.ones((2, 3, 4, 4), dtype=bool)
    masks[list(empty)] = False
    with pytest.raises(ValueError, match="both masks must hold voxels"):
        measure_surfaces(*masks, ISOTROPIC)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"the same 3D shape, got \(2, 3, 3\) and \(3, 3, 3\)"):
        measure_surfaces(np.ones((2, 3, 3)), np.ones((3, 3, 3)), ISOTROPIC)
