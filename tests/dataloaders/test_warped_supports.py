"""Each support is registered to its own queries, once, for its own organs."""

import numpy as np
import pytest

from dataloaders import warped_supports
from dataloaders.evaluation_folds import EvaluationFold, plan_jobs
from dataloaders.evaluation_sets import EvaluationScan
from dataloaders.warped_masks import WarpedMasks
from dataloaders.warped_supports import warp_supports
from util.io.image_io import Geometry

ORGANS = {1: "liver", 4: "spleen"}
SHAPE = (6, 4, 5)


def make_scan(scan_id):
    label_map = np.zeros(SHAPE, np.int16)
    label_map[1:4, 1, 1], label_map[2:5, 2, 2] = 1, 4
    geometry = Geometry(SHAPE, (8.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    return EvaluationScan(scan_id, np.zeros((SHAPE[0], 1, 4, 5)), label_map, label_map, geometry)


@pytest.fixture(name="calls")
def _calls(monkeypatch):
    """Replace the warping: masks are full of the support's id; scan 3 fails."""
    calls = []

    def warp_to_queries(support, queries, labels, **options):
        ids = [query.scan_id for query in queries]
        calls.append((support.scan_id, ids, labels))
        mask = np.full(SHAPE, support.scan_id, np.float32)
        masks = {query_id: dict.fromkeys(labels, mask) for query_id in ids if query_id != 3}
        failures = {query_id: "bad" for query_id in ids if query_id == 3}
        return WarpedMasks(support.scan_id, masks, dict.fromkeys(ids, (8.0, 1.0, 1.0)), failures)

    monkeypatch.setattr(warped_supports, "warp_to_queries", warp_to_queries)
    return calls


def plan(**options):
    scans = [make_scan(scan_id) for scan_id in (1, 2, 3)]
    fold = EvaluationFold(scans, {1: scans[0], 4: scans[1]})
    return plan_jobs(fold, ORGANS, n_part=3, **options)


def test_each_job_gets_the_mask_of_its_own_support(calls):
    jobs = plan()
    warped = warp_supports(jobs, cache_dir=None, progress=False)
    assert calls == [(1, [2, 3], [1]), (2, [1, 3], [4])]
    for job, mask in warped.segment(jobs):
        assert warped.serves(job) == (job.query.scan_id != 3)
        assert mask.shape == (len(job.assignment.slices), *SHAPE[1:])
        assert (mask == (job.support.scan_id if warped.serves(job) else 0)).all()
        if warped.serves(job):
            assert np.array_equal(warped.of_job(job), mask)
    assert len(warped.describe()) == 2


def test_other_supports_are_not_registered(calls):
    jobs = plan(every_support=True, all_slices=False)
    warped = warp_supports(jobs, cache_dir=None, progress=False)
    assert {support_id for support_id, *_ in calls} == {1, 2}
    assert [job.main_support for job in jobs if job.support.scan_id == 3] == [False] * 4
    assert not any(warped.serves(job) for job in jobs if job.support.scan_id == 3)


def test_without_jobs_nothing_is_registered(calls):
    assert warp_supports([], cache_dir=None).by_support == {}
    assert calls == []
