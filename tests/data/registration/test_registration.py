"""Known transforms are recovered, bit by bit the same, and failures are seen."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from data.registration.pairwise_registration import Quality, ScanVolume, register
from data.registration.registration_stages import CORRELATION, MEASURES, ScanPair, choose_start, evaluate
from data.registration.spatial_transform import SpatialTransform, warp_label_map
from tests.data.registration.synthetic_bodies import (
    ORGANS,
    body_scan,
    grid,
    organ_labels,
    positions_mm,
    rotation,
)
from util.errors import UserError
from util.io.image_io import to_sitk

OBLIQUE = rotation(0, 12) @ rotation(2, -9)


def linear_map(matrix, translation_mm):
    """Return a map from the query to the support, and its inverse."""
    inverse = np.linalg.inv(matrix)
    return (
        lambda points_mm: points_mm @ matrix.T + translation_mm,
        lambda points_mm: (points_mm - translation_mm) @ inverse.T,
    )


def mean_error_mm(transform, truth, geometry):
    """Return the mean distance between mapped positions and their truth, over the organs."""
    points_mm = positions_mm(geometry)[organ_labels(geometry) > 0][::50]
    mapped_mm = [transform.to_sitk().TransformPoint(point) for point in points_mm.tolist()]
    return np.linalg.norm(mapped_mm - truth(points_mm), axis=1).mean()


def dice(mask, other):
    return 2 * np.count_nonzero(mask & other) / (np.count_nonzero(mask) + np.count_nonzero(other))


@pytest.mark.parametrize(
    ("matrix", "translation_mm", "direction"),
    [
        (np.eye(3), (12.0, -9.0, 21.0), np.eye(3)),
        (rotation(2, 8) @ rotation(0, -5), (5.0, 4.0, -12.0), OBLIQUE),
        (rotation(1, 6), (0.0, 8.0, 0.0), np.diag([1, -1, 1]) @ OBLIQUE),  # left-handed
        (np.diag([1.15, 0.9, 1.1]), (6.0, 0.0, 10.0), np.eye(3)),
        (rotation(2, 6) @ np.diag([0.9, 1.1, 1.05]), (-6.0, 3.0, 14.0), OBLIQUE),
    ],
)
def test_a_known_transform_between_different_grids_is_recovered(matrix, translation_mm, direction):
    to_support, to_query = linear_map(matrix, np.array(translation_mm))
    query_grid = grid()
    support_grid = grid(
        (32, 60, 64), (6.5, 3.0, 3.2), direction @ rotation(1, 4), centre_mm=to_support(np.zeros(3))
    )
    support = body_scan(support_grid, to_query, seed=1)
    result = register(support, body_scan(query_grid))
    assert mean_error_mm(result.transform, to_support, query_grid) < 0.8
    assert result.quality.failure is None
    assert result.quality.body_overlap > 0.93
    assert result.quality.min_jacobian > 0.8


def test_a_bspline_brings_organs_closer_than_an_affine_transform():
    query_grid = grid()

    def bend(points_mm):  # a smooth bend that no affine transform describes
        x, y, z = np.moveaxis(points_mm, -1, 0)
        return np.stack([x + z**2 / 250, y + x**2 / 250, z], axis=-1)

    query, support = body_scan(query_grid, bend), body_scan(grid((28, 60, 64)))
    label_map = organ_labels(support.geometry)
    result = register(support, query)
    affine = SpatialTransform(result.transform.affine, result.transform.center_mm)
    truth = organ_labels(query_grid, bend)

    def mean_dice(transform):
        warped = warp_label_map(label_map, support.geometry, transform, query_grid, labels=ORGANS)
        return np.mean([dice(warped[label] > 0.5, truth == label) for label in ORGANS])

    assert mean_dice(result.transform) > mean_dice(affine) + 0.03
    assert mean_dice(result.transform) > 0.85
    assert result.quality.failure is None
    assert result.quality.min_jacobian < 1


def test_threads_and_repeats_change_no_bit():
    support = body_scan(grid((20, 40, 44), (7.0, 4.0, 4.0), rotation(0, 5)), seed=1)
    query = body_scan(grid((20, 40, 40), (7.0, 4.0, 4.0)))
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    result = []
    try:
        for n_threads in (1, 2, 2):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(n_threads)
            result.append(register(support, query))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == n_threads
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert result[0] == result[1] == result[2]
    assert any(result[0].transform.bspline)


def test_the_scans_are_unchanged_and_their_dtype_does_not_matter():
    scans = [body_scan(grid((12, 30, 30), (12.0, 6.0, 6.0)), seed=seed) for seed in (0, 1)]
    doubles = [scan._replace(voxels=scan.voxels.astype(np.float64)) for scan in scans]
    assert register(*scans) == register(*doubles)
    for scan, double in zip(scans, doubles, strict=True):
        assert np.array_equal(scan.voxels, double.voxels)


def test_a_scan_registered_to_itself_stays_where_it_is():
    scan = body_scan(grid())
    result = register(scan, scan)
    assert mean_error_mm(result.transform, lambda points_mm: points_mm, scan.geometry) < 0.2
    assert result.quality.failure is None


def test_mutual_information_succeeds_where_a_bright_cyst_misleads_correlation():
    to_support, to_query = linear_map(rotation(2, 6), np.array((6.0, 0.0, 25.0)))
    query_grid = grid((20, 40, 44), (9.0, 4.0, 4.0))
    support, healthy = body_scan(query_grid, to_query, seed=1), body_scan(query_grid)
    is_cyst = np.linalg.norm(positions_mm(query_grid) - (25, -20, -35), axis=-1) < 30
    query = healthy._replace(voxels=np.where(is_cyst, np.float32(10), healthy.voxels))
    misled, result = (register(support, query, measure=measure) for measure in MEASURES)
    assert misled.quality.failure is not None
    assert result.quality.failure is None
    assert mean_error_mm(result.transform, to_support, query_grid) < 3
    assert misled.quality.metric_before == result.quality.metric_before  # both are judged by the correlation


def test_a_start_that_covers_little_of_the_query_does_not_win():
    voxels = np.random.default_rng(0).random((20, 10, 10)).astype(np.float32)
    noisy = voxels + np.random.default_rng(1).normal(0, 0.2, voxels.shape).astype(np.float32)
    noisy[-4:] = voxels[:4]  # the support's last slices equal the query's first ones
    support, query = (to_sitk(each, grid(each.shape, (5.0, 5.0, 5.0))) for each in (noisy, voxels))
    pair = ScanPair(support, query, sitk.Image(query.GetSize(), sitk.sitkUInt8) + 1, CORRELATION)
    pair.region.CopyInformation(query)
    aligned, distant = (sitk.TranslationTransform(3, (0.0, 0.0, 5.0 * n)) for n in (0, 16))
    assert evaluate(distant, pair) < evaluate(aligned, pair) < -0.3
    assert choose_start([distant, aligned], pair) is aligned


@pytest.mark.parametrize("filled", [np.s_[8:11, 5:35, 5:9], np.s_[:]])
def test_an_unrelated_volume_fails(filled, capfd):
    noise = np.zeros((20, 40, 40), np.float32)
    noise[filled] = np.random.default_rng(0).random(noise[filled].shape) + 1
    unrelated = ScanVolume(noise, grid(noise.shape, (8.0, 4.0, 4.0)))
    assert register(unrelated, body_scan(grid())).quality.failure is not None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"body_overlap": 0.3}, "bodies overlap by 0.30"),
        ({"body_overlap": float("nan")}, "bodies overlap"),
        ({"metric_after": -0.1}, "metric got worse"),
        ({"metric_before": 0.0, "metric_after": -0.01}, "hardly related"),
        ({"min_jacobian": -0.2}, "folds"),
        ({"stretch": 3.9}, "stretched by 3.9, above 2"),
        ({"stretch": float("nan")}, "stretched"),
    ],
)
def test_the_rule_names_what_failed(change, message):
    good = Quality(body_overlap=0.95, metric_before=-0.3, metric_after=-0.6, min_jacobian=0.4, stretch=1.0)
    failure = replace(good, **change).failure
    assert failure is None if message is None else message in failure


@pytest.mark.parametrize(
    ("voxels", "changes", "message"),
    [
        (np.zeros((8, 8, 8)), {}, "must not be constant"),
        (np.full((8, 8, 8), np.nan), {}, "finite"),
        (np.eye(8), {}, "must be 3D"),
        (np.random.default_rng(0).random((3, 8, 8)), {"shape": (3, 8, 8)}, "at least 4 voxels"),
        (np.random.default_rng(0).random((9, 8, 8)), {}, r"geometry's \(8, 8, 8\), got \(9, 8, 8\)"),
        (np.random.default_rng(0).random((8, 8, 8)), {"direction": (0.0,) * 9}, "invertible"),
    ],
)
def test_a_bad_volume_is_refused_by_name_in_one_line(voxels, changes, message):
    geometry = grid((8, 8, 8))
    bad = ScanVolume(voxels, replace(geometry, **changes), name="image_3.nii.gz")
    good = ScanVolume(np.random.default_rng(0).random((8, 8, 8)), geometry)
    for pair in ((bad, good), (good, bad)):
        with pytest.raises(UserError, match=f"^image_3.nii.gz: [^\n]*{message}[^\n]*$"):
            register(*pair)


def test_torch_is_not_imported():
    code = "import sys, data.registration.registration_cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
