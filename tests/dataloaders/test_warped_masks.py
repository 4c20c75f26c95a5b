"""A support's labels reach each query's grid, smoothed in mm; failed registrations are left out and named."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from data.registration.pairwise_registration import Quality, Registration
from data.registration.registration_stages import CORRELATION, MEASURES, MUTUAL_INFORMATION
from data.registration.spatial_transform import SpatialTransform
from dataloaders import warped_masks
from dataloaders.evaluation_folds import EvaluationFold, plan_jobs
from dataloaders.evaluation_sets import Assignment, EvaluationScan, Job
from dataloaders.warped_masks import smooth_in_plane, warp_supports
from util.io.image_io import Geometry

FULL, SMALL = (10, 24, 32), (12, 16)
SPACING_MM = (6.0, 1.5, 2.0)
LABEL = 3
GOOD = Quality(body_overlap=0.9, metric_before=-0.2, metric_after=-0.5, min_jacobian=1.0, stretch=1.0)
BAD = Quality(body_overlap=0.1, metric_before=-0.2, metric_after=-0.5, min_jacobian=1.0, stretch=1.0)


def make_scan(scan_id, *, size_px=SMALL):
    label_map = np.zeros(FULL, np.int16)
    label_map[3:6, 8:14, 10:20] = LABEL
    geometry = Geometry(FULL, SPACING_MM, (5.0, -7.0, 11.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    images = torch.rand(FULL[0], 1, *size_px, generator=torch.Generator().manual_seed(scan_id))
    return EvaluationScan(scan_id, images, label_map, label_map, geometry)


def make_job(support, query, slices=range(FULL[0])):
    slices = np.array(slices)
    assignment = Assignment(slices=slices, parts=np.zeros(len(slices), int))
    return Job("all_slices", support, query, LABEL, np.array([4]), assignment, True)


@pytest.fixture(name="registered")
def _registered(monkeypatch):
    """Replace registration: shift by one slice and two columns; scan 8 fails. Records the pairs."""
    pairs_seen = []

    def register_pairs(pairs, **options):
        pairs_seen.extend(pairs)
        transform = SpatialTransform((1.0, 0, 0, 0, 1, 0, 0, 0, 1, 4.0, 0.0, 6.0), (0.0, 0.0, 0.0))
        return [Registration(transform, BAD if query.name == "scan 8" else GOOD) for _, query in pairs]

    monkeypatch.setattr(warped_masks, "register_pairs", register_pairs)
    return pairs_seen


@pytest.fixture(name="warped")
def _warped(registered):
    support, queries = make_scan(5), [make_scan(7), make_scan(8)]
    jobs = [make_job(support, query) for query in queries]
    return support, queries, warp_supports(jobs, cache_dir=None, progress=False)


def test_masks_are_warped_on_the_full_grid(warped):
    support, (query, _), masks = warped
    expected = np.roll((support.label_map == LABEL).astype(np.float32), (-1, -2), axis=(0, 2))
    np.testing.assert_allclose(masks.by_pair[5, 7].masks[LABEL], expected, atol=1e-6)
    result = masks.mask_of_job(make_job(support, query, slices=[2, 4]))
    np.testing.assert_allclose(result, expected[[2, 4]], atol=1e-6)


def test_smoothing_is_in_mm_within_slices(warped):
    support, (query, _), masks = warped
    sharp = masks.mask_of_job(make_job(support, query))
    expected = gaussian_filter(sharp, (0, 4.5 / 1.5, 4.5 / 2.0), mode="constant")
    np.testing.assert_array_equal(smooth_in_plane(sharp, SPACING_MM, smoothing_mm=4.5), expected)


def test_a_failed_registration_serves_no_job_and_is_named(warped):
    support, (query, failed), masks = warped
    assert masks.covers(make_job(support, query))
    assert not masks.covers(make_job(support, failed))
    assert not masks.covers(make_job(query, query))
    assert len(masks.describe()) == 1
    assert masks.describe()[0].startswith("warning: registration failed for 1 queries (scan 8: ")
    jobs = [make_job(support, query), make_job(support, failed)]
    result = [probabilities for _, probabilities in masks.segment(jobs)]
    assert result[0].max() > 0.9
    assert result[1].shape == FULL
    assert not result[1].any()


def test_resized_slices_keep_the_area_that_they_cover(warped, registered):
    (volume, _), *_ = registered
    grid, full = volume.geometry, make_scan(5).geometry
    assert volume.voxels.shape == grid.shape == (FULL[0], *SMALL)
    # The outer edges of the first and the last pixel.
    for index in (-0.5, None):
        small = [0, *(n - 0.5 if index is None else index for n in SMALL)]
        large = [0, *(n - 0.5 if index is None else index for n in FULL[1:])]
        np.testing.assert_allclose(grid.position_mm(small), full.position_mm(large))


@pytest.fixture(name="failing")
def _failing():
    """The queries to which no support registers, by measure."""
    return {measure: {"scan 3"} for measure in MEASURES}


@pytest.fixture(name="calls")
def _calls(monkeypatch, failing):
    """Replace registration and warping: masks are full of the support's id, plus 10 by the second measure.

    Returns the pairs that were registered, by measure.
    """
    calls = {}

    def register_pairs(pairs, *, measure, **options):
        calls[measure] = [(support.name, query.name) for support, query in pairs]
        return [
            Registration(f"{support.name} by {measure}", BAD if query.name in failing[measure] else GOOD)
            for support, query in pairs
        ]

    def warp_label_map(label_map, geometry, transform, query_geometry, *, labels):
        scan, measure = transform.removeprefix("scan ").split(" by ")
        mask = np.full(query_geometry.shape, int(scan) + 10 * MEASURES.index(measure), np.float32)
        return dict.fromkeys(labels, mask)

    monkeypatch.setattr(warped_masks, "register_pairs", register_pairs)
    monkeypatch.setattr(warped_masks, "warp_label_map", warp_label_map)
    return calls


def plan(**options):
    """Plan a fold of three scans: scan 1 is the support of organ 1, scan 2 that of organ 4."""
    scans = [make_scan(scan_id) for scan_id in (1, 2, 3)]
    for scan in scans:
        scan.label_map[1:4, 1, 1], scan.label_map[2:5, 2, 2] = 1, 4
    fold = EvaluationFold(scans, {1: scans[0], 4: scans[1]})
    return plan_jobs(fold, {1: "liver", 4: "spleen"}, n_part=3, **options)


def test_each_job_gets_the_mask_of_its_own_support(calls):
    jobs = plan()
    warped = warp_supports(jobs, cache_dir=None, progress=False)
    pairs = [(1, 2), (1, 3), (2, 1), (2, 3)]
    assert calls[CORRELATION] == [(f"scan {support}", f"scan {query}") for support, query in pairs]
    assert {pair: list(result.masks) for pair, result in warped.by_pair.items()} == {
        (1, 2): [1],
        (1, 3): [],
        (2, 1): [4],
        (2, 3): [],
    }
    for job, mask in warped.segment(jobs):
        assert warped.covers(job) == (job.query.scan_id != 3)
        assert mask.shape == (len(job.assignment.slices), *FULL[1:])
        assert (mask == (job.support.scan_id if warped.covers(job) else 0)).all()
        if warped.covers(job):
            assert np.array_equal(warped.mask_of_job(job), mask)
    assert len(warped.describe()) == 2


def test_other_supports_are_not_registered(calls):
    jobs = plan(every_support=True, all_slices=False)
    warped = warp_supports(jobs, cache_dir=None, progress=False)
    assert {support for support, _ in calls[CORRELATION]} == {"scan 1", "scan 2"}
    assert [job.main_support for job in jobs if job.support.scan_id == 3] == [False] * 4
    assert not any(warped.covers(job) for job in jobs if job.support.scan_id == 3)


def test_without_jobs_nothing_is_registered(calls):
    assert warp_supports([], cache_dir=None).by_pair == {}
    assert not any(calls.values())


def test_the_second_measure_serves_where_the_first_failed(calls, failing):
    failing[MUTUAL_INFORMATION] = set()
    warped = warp_supports(plan(), cache_dir=None, progress=False)
    assert calls[MUTUAL_INFORMATION] == [("scan 1", "scan 3"), ("scan 2", "scan 3")]
    assert {pair: each.masks.popitem()[1].max() for pair, each in warped.by_pair.items()} == {
        (1, 2): 1,
        (1, 3): 11,
        (2, 1): 2,
        (2, 3): 12,
    }
    assert all(each.alternative is None for each in warped.by_pair.values())
    assert warped.describe() == []


def test_both_measures_give_candidates_where_both_succeed(calls, failing):
    failing.update({CORRELATION: {"scan 3"}, MUTUAL_INFORMATION: {"scan 1"}})
    jobs = plan()
    warped = warp_supports(jobs, by_both=True, cache_dir=None, progress=False)
    assert calls[MUTUAL_INFORMATION] == calls[CORRELATION]
    candidates = {
        (job.support.scan_id, job.query.scan_id): [mask.max() for mask in warped.candidates(job)]
        for job in jobs
    }
    assert candidates == {(1, 2): [1, 11], (1, 3): [11], (2, 1): [2], (2, 3): [12]}
    assert warped.mask_of_query(jobs[0]).max() == warped.candidates(jobs[0])[0].max()


def test_the_failure_of_both_measures_is_that_of_the_first(calls):
    warped = warp_supports(plan(), by_both=True, cache_dir=None, progress=False)
    assert warped.by_pair[1, 3].failure == BAD.failure
    assert warped.by_pair[1, 3].candidates(1) == []
