"""Hashes of volumes depend on values and grid, and on nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from util.io.image_io import Geometry, read_volume, write_volume
from util.io.volume_hash import hash_volume

GEOMETRY = Geometry((3, 4, 5), (7.7, 0.7125, 1.25), (-10.0, 20.125, 5.0), (1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
VOLUME = np.random.default_rng(0).integers(-300, 300, (3, 4, 5)).astype(np.int16)


def test_the_hash_is_known():
    # Computed once; it must be the same on every machine and with every version of the libraries.
    small = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    geometry = Geometry((2, 3, 4), (7.7, 1.25, 1.25), (-1.0, 2.0, 3.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    assert hash_volume(small) == "06a69f2bcee6696b765ba340f560858b"
    assert hash_volume(small, geometry) == "e23e1b2e9e9dc9bca8745075bab57341"


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64, ">i2", ">f8"])
def test_equal_values_have_equal_hashes_in_any_dtype(dtype):
    assert hash_volume(VOLUME.astype(dtype), GEOMETRY) == hash_volume(VOLUME, GEOMETRY)


def test_values_that_need_more_digits_have_them_counted():
    exact = VOLUME.astype(np.float64)
    fine = exact.copy()
    fine[1, 2, 3] += 1e-9
    assert hash_volume(fine) != hash_volume(exact)
    assert hash_volume(np.full((1, 1, 1), 1e300)) != hash_volume(np.full((1, 1, 1), 2e300))


def test_negative_zero_is_zero():
    assert hash_volume(np.full((1, 1, 2), -0.0)) == hash_volume(np.zeros((1, 1, 2), np.uint8))
    mixed = np.array([[[-0.0, 1e-9]]])
    assert hash_volume(mixed) == hash_volume(np.abs(mixed))


def test_views_are_hashed_as_they_look():
    view = np.ascontiguousarray(VOLUME.transpose(2, 1, 0)).transpose(2, 1, 0)
    assert hash_volume(view) == hash_volume(VOLUME)


def test_every_voxel_and_the_shape_count():
    hashes = {hash_volume(VOLUME)}
    for index in np.ndindex(VOLUME.shape):
        changed = VOLUME.copy()
        changed[index] += 1
        hashes.add(hash_volume(changed))
    hashes |= {hash_volume(VOLUME.reshape(3, 5, 4)), hash_volume(VOLUME[::-1])}
    assert len(hashes) == 1 + VOLUME.size + 2


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (7.7, 0.7145, 1.25)},
        {"origin_mm": (-10.0, 20.15, 5.0)},
        {"direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)},
    ],
)
def test_the_grid_counts(change):
    assert hash_volume(VOLUME, replace(GEOMETRY, **change)) != hash_volume(VOLUME, GEOMETRY)
    assert hash_volume(VOLUME) != hash_volume(VOLUME, GEOMETRY)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_last_digits_of_a_grid_do_not_count(sign):
    noise = {
        "spacing_mm": tuple(x * (1 + sign * 1e-7) for x in GEOMETRY.spacing_mm),
        "origin_mm": tuple(x * (1 + sign * 1e-7) for x in GEOMETRY.origin_mm),
        "direction": tuple(x + sign * 1e-7 for x in GEOMETRY.direction),
    }
    assert hash_volume(VOLUME, replace(GEOMETRY, **noise)) == hash_volume(VOLUME, GEOMETRY)


def test_a_volume_keeps_its_hash_through_a_file(tmp_path):
    tilted = (0.999391, 0.0, 0.034899, 0.0, -1.0, 0.0, -0.034899, 0.0, 0.999391)
    for geometry in (GEOMETRY, replace(GEOMETRY, direction=tilted)):
        write_volume(tmp_path / "a.nii.gz", VOLUME, geometry)
        assert hash_volume(*read_volume(tmp_path / "a.nii.gz")) == hash_volume(VOLUME, geometry)
