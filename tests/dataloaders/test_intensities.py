"""Intensities: hand-computed values, the field's definition read literally, and distributions."""

import math

import numpy as np
import pytest

from dataloaders.intensities import (
    add_noise,
    apply_bias_field,
    apply_gamma,
    change_contrast,
    sample_bias_field,
)


def test_gamma_bends_between_the_slices_own_extremes():
    image = np.array([[-1.0, 0.0], [1.0, 3.0]], dtype=np.float32)
    # Mapped to 0, 1/4, 1/2, 1; squared 0, 1/16, 1/4, 1; mapped back to -1..3.
    np.testing.assert_allclose(apply_gamma(image, 2.0), [[-1, -0.75], [0, 3]], atol=1e-6)
    np.testing.assert_allclose(apply_gamma(image, 0.5), [[-1, 1], [2 * np.sqrt(2) - 1, 3]], atol=1e-6)
    np.testing.assert_allclose(apply_gamma(image, 1.0), image, atol=1e-6)


def test_gamma_leaves_a_constant_slice_and_its_input_alone():
    image = np.full((3, 3), 7.0, np.float32)
    bent = apply_gamma(image, 0.5)
    np.testing.assert_array_equal(bent, image)
    assert not np.shares_memory(bent, image)
    assert bent.dtype == np.float32


def test_contrast_stretches_each_slice_about_its_own_mean():
    images = np.array([[[0, 2], [4, 6]], [[10, 10], [10, 50]]], dtype=np.float32)
    change_contrast(images, 0.5)
    # Means 3 and 20; deviations are halved.
    np.testing.assert_allclose(images, [[[1.5, 2.5], [3.5, 4.5]], [[15, 15], [15, 35]]], atol=1e-5)
    change_contrast(images, 2.0)
    np.testing.assert_allclose(images, [[[0, 2], [4, 6]], [[10, 10], [10, 50]]], atol=1e-5)


def test_the_bias_field_multiplies_what_lies_above_each_slices_minimum():
    images = np.array([[[-1, 0], [1, 3]], [[5, 5], [7, 6]]], dtype=np.float32)
    field = np.array([[2, 0.5], [1, 2]], dtype=np.float32)
    apply_bias_field(images, field)
    np.testing.assert_allclose(images, [[[-1, -0.5], [1, 7]], [[5, 5], [7, 7]]], atol=1e-6)
    np.testing.assert_array_equal(field, [[2, 0.5], [1, 2]])


@pytest.mark.parametrize("shape", [(5, 7), (64, 48), (1, 1)])
def test_the_fields_logarithm_is_the_sum_of_low_cosines_scaled_to_its_amplitude(shape):
    field = sample_bias_field(np.random.default_rng(3), shape, 0.7)
    coefficients = np.random.default_rng(3).standard_normal((3, 3), dtype=np.float32)
    logarithm = np.zeros(shape)
    for y, x, i, j in np.ndindex(*shape, 3, 3):
        if (i, j) != (0, 0):
            wave_y = math.cos(math.pi * i * (y + 0.5) / shape[0])
            wave_x = math.cos(math.pi * j * (x + 0.5) / shape[1])
            logarithm[y, x] += coefficients[i, j] * wave_y * wave_x
    expected = np.exp(0.7 * logarithm / np.abs(logarithm).max())
    assert field.dtype == np.float32
    np.testing.assert_allclose(field, expected, rtol=1e-5)


def test_the_field_attains_its_amplitude_both_ways_and_is_smooth():
    generator = np.random.default_rng(0)
    logarithms = np.log([sample_bias_field(generator, (64, 64), 0.4) for _ in range(50)])
    np.testing.assert_allclose(np.abs(logarithms).max(axis=(1, 2)), 0.4, rtol=1e-5)
    brightest, darkest = logarithms.max(axis=(1, 2)), -logarithms.min(axis=(1, 2))
    assert (brightest > 0.399).any()
    assert (darkest > 0.399).any()
    # A step of a pixel is at most 2 pi / 64 of a wave's height, and several waves may add up.
    assert np.abs(np.diff(logarithms, axis=2)).max() < 0.1
    # Not concentrated in the corners: the middle third varies too.
    assert np.abs(logarithms[:, 21:43, 21:43]).max(axis=(1, 2)).mean() > 0.1


def test_noise_has_the_requested_deviation_and_no_structure():
    images = np.full((2, 128, 128), 3, np.float32)
    add_noise(images, 0.25, np.random.default_rng(0))
    noise = images - 3
    # Five standard errors of 32768 draws.
    assert abs(noise.mean()) < 5 * 0.25 / math.sqrt(noise.size)
    assert noise.std() == pytest.approx(0.25, rel=0.02)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.04
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.03
    assert images.dtype == np.float32


def test_no_contrast_no_deviation_and_a_field_of_ones_change_nothing():
    before = np.random.default_rng(1).normal(size=(2, 9, 7)).astype(np.float32)
    images = before.copy()
    change_contrast(images, 1.0)
    add_noise(images, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(images, before)
    apply_bias_field(images, np.ones((9, 7), np.float32))
    np.testing.assert_allclose(images, before, atol=1e-6)
