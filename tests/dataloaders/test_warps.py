"""Warps: hand-computed places, and a literal SciPy reading of the map."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from dataloaders.episode_settings import AugmentationRanges
from dataloaders.warps import (
    affine_source,
    compose_map,
    sample_displacement,
    sample_warp,
    warp_image_and_mask,
)

STILL = {"rotation_deg": 0.0, "shift_px": (0.0, 0.0), "shear_deg": 0.0, "scale": 1.0}


def smooth_image(shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 3).astype(np.float32) * 10 + 2


def test_no_movement_gives_the_identity_map():
    rows, columns = np.indices((5, 7))
    np.testing.assert_allclose(compose_map(affine_source((5, 7), **STILL), (5, 7)), [columns, rows])
    source_map = sample_warp(np.random.default_rng(0), (5, 7), AugmentationRanges.disabled())
    np.testing.assert_allclose(source_map, [columns, rows], atol=1e-6)


@pytest.mark.parametrize(
    ("movement", "output_xy", "input_xy"),
    [
        # 9 x 9: the centre is (4, 4).
        ({"shift_px": (2.0, -1.0)}, (5, 5), (3, 6)),
        ({"scale": 2.0}, (8, 4), (6, 4)),
        ({"scale": 0.5}, (5, 5), (6, 6)),
        # A quarter turn takes the place right of the centre (+x) to below it (+y).
        ({"rotation_deg": 90.0}, (4, 7), (7, 4)),
        # 45 degrees of shear move x by minus the step in y.
        ({"shear_deg": 45.0}, (2, 6), (4, 6)),
        # Sheared first, then turned: (1, 1) from the centre -> (0, 1) -> (-1, 0); then shifted.
        ({"shear_deg": 45.0, "rotation_deg": 90.0, "shift_px": (1.0, 2.0)}, (4, 6), (5, 5)),
    ],
)
def test_each_movement_maps_to_the_hand_computed_position(movement, output_xy, input_xy):
    matrix = affine_source((9, 9), **{**STILL, **movement})
    np.testing.assert_allclose(matrix @ (*output_xy, 1), input_xy, atol=1e-12)


@pytest.mark.parametrize("shape", [(31, 45), (16, 64)])
def test_the_centre_stays_under_rotation_shear_and_scale(shape):
    matrix = affine_source(shape, rotation_deg=30, shift_px=(0, 0), shear_deg=10, scale=1.3)
    centre = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    np.testing.assert_allclose(matrix @ (*centre, 1), centre, atol=1e-12)


def test_the_displacement_moves_places_before_the_affine_takes_them_back():
    matrix = affine_source((9, 11), rotation_deg=4, shift_px=(1, 2), shear_deg=-3, scale=1.1)
    displacement = np.random.default_rng(1).normal(size=(2, 9, 11)).astype(np.float32)
    rows, columns = np.indices((9, 11))
    ones = np.ones((9, 11))
    expected = np.einsum("ij,jhw->ihw", matrix, [columns + displacement[0], rows + displacement[1], ones])
    np.testing.assert_allclose(compose_map(matrix, (9, 11), displacement), expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "sigma_px"), [((64, 64), 5.0), ((65, 33), 2.5), ((9, 7), 5.0)])
def test_the_displacement_is_scipys_smoothing_of_the_same_noise(shape, sigma_px):
    noise = np.random.default_rng(5).random((2, *shape), dtype=np.float32).astype(np.float64) * 2 - 1
    expected = [10 * ndimage.gaussian_filter(plane, sigma_px, mode="constant") for plane in noise]
    displacement = sample_displacement(np.random.default_rng(5), shape, sigma_px=sigma_px, amplitude=10)
    assert displacement.dtype == np.float32
    np.testing.assert_allclose(displacement, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (65, 48)])
def test_warping_is_linear_interpolation_at_the_maps_positions(shape):
    ranges = AugmentationRanges(rotation_deg=20, shift_px=40, elastic_amplitude=400)
    source_map = sample_warp(np.random.default_rng(3), shape, ranges)
    image, mask = smooth_image(shape), np.zeros(shape, np.float32)
    mask[shape[0] // 4 : shape[0] // 2, : shape[1] // 2] = 1
    warped_image, warped_mask = warp_image_and_mask(image, mask, source_map)

    positions = source_map[::-1].astype(np.float64)
    options = {"order": 1, "mode": "grid-constant"}
    expected_image = ndimage.map_coordinates(image, positions, cval=image.min(), **options)
    expected_mask = ndimage.map_coordinates(mask, positions, cval=0, **options)
    # OpenCV before 5 rounds places to 1/32 px.
    steepest = max(
        np.abs(np.diff(np.pad(image, 1, constant_values=image.min()), axis=a)).max() for a in (0, 1)
    )
    np.testing.assert_allclose(warped_image, expected_image, atol=steepest / 32 + 1e-5)
    clear = np.abs(expected_mask - 0.5) > 1 / 16
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(warped_mask[clear], (expected_mask >= 0.5)[clear])
    assert warped_mask.any()


def test_outside_lies_the_images_minimum_and_no_mask():
    image, mask = smooth_image((20, 20)), np.ones((20, 20), np.float32)
    source_map = compose_map(affine_source((20, 20), **{**STILL, "shift_px": (5.0, 0.0)}), (20, 20))
    warped_image, warped_mask = warp_image_and_mask(image, mask, source_map)
    assert (warped_image[:, :5] == image.min()).all()
    np.testing.assert_allclose(warped_image[:, 5:], image[:, :-5], atol=1e-6)
    assert not warped_mask[:, :5].any()
    assert (warped_mask[:, 5:] == 1).all()


def test_a_warped_mask_is_binary_and_inputs_stay_as_they_are():
    image, mask = smooth_image((40, 40)), (smooth_image((40, 40), 1) > 2).astype(np.float32)
    before = image.copy(), mask.copy()
    source_map = sample_warp(np.random.default_rng(2), (40, 40), AugmentationRanges())
    warped_image, warped_mask = warp_image_and_mask(image, mask, source_map)
    assert set(np.unique(warped_mask)) == {0.0, 1.0}
    assert warped_image.dtype == warped_mask.dtype == np.float32
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def fitted_affine(source_map):
    """Least-squares affine of a map, which the smooth displacement barely moves."""
    height, width = source_map.shape[1:]
    rows, columns = np.indices((height, width))
    design = np.column_stack([columns.ravel(), rows.ravel(), np.ones(height * width)])
    return np.linalg.lstsq(design, source_map.reshape(2, -1).T, rcond=None)[0].T


def decomposed(source_map):
    """Rotation and shear in degrees, and scale, of the affine that made a map."""
    forward = np.linalg.inv(fitted_affine(source_map)[:, :2])
    angle, scale = np.arctan2(forward[1, 0], forward[0, 0]), np.hypot(*forward[:, 0])
    turned_back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ forward
    return np.degrees(angle), np.degrees(np.arctan(-turned_back[0, 1] / scale)), scale


def test_drawn_affines_fill_their_ranges_and_stay_inside():
    generator = np.random.default_rng(0)
    ranges = AugmentationRanges(elastic_amplitude=0)
    drawn = np.array([decomposed(sample_warp(generator, (16, 16), ranges)) for _ in range(300)])
    bounds = [(-5, 5), (-5, 5), (0.9, 1.2)]
    for values, (low, high) in zip(drawn.T, bounds, strict=True):
        margin = 0.05 * (high - low)
        assert low - 1e-3 < values.min() < low + margin
        assert high - margin < values.max() < high + 1e-3


def test_lengths_scale_with_the_slice():
    def shift_and_displacement(side_px):
        ranges = AugmentationRanges(rotation_deg=0, shear_deg=0, scale=(1, 1))
        maps = [sample_warp(np.random.default_rng(seed), (side_px, side_px), ranges) for seed in range(40)]
        identity = np.indices((side_px, side_px))[::-1]
        moves = np.array(maps) - identity
        # Its inside only: near the border the smoothing lacks half of its noise.
        inside = moves[..., side_px // 4 : -side_px // 4, side_px // 4 : -side_px // 4]
        shifts = inside.mean(axis=(2, 3))
        return np.abs(shifts).max(), (inside - shifts[..., None, None]).std()

    shift_256, displacement_256 = shift_and_displacement(256)
    shift_64, displacement_64 = shift_and_displacement(64)
    assert 4.5 < shift_256 < 5.2
    # Uniform noise (deviation 1 / sqrt 3) under a Gaussian of sigma 5: 10 / (sqrt 3 * 2 * sqrt(pi) * 5).
    assert displacement_256 == pytest.approx(10 / (np.sqrt(3) * 2 * np.sqrt(np.pi) * 5), rel=0.05)
    assert shift_64 == pytest.approx(shift_256 / 4, rel=0.1)
    assert displacement_64 == pytest.approx(displacement_256 / 4, rel=0.1)


def test_the_warp_depends_on_its_generator_alone_whatever_the_threads():
    cv2_threads = cv2.getNumThreads()
    first = sample_warp(np.random.default_rng(9), (256, 256), AugmentationRanges())
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    try:
        cv2.setNumThreads(1)
        again = sample_warp(np.random.default_rng(9), (256, 256), AugmentationRanges())
    finally:
        cv2.setNumThreads(cv2_threads)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, sample_warp(np.random.default_rng(10), (256, 256), AugmentationRanges()))
