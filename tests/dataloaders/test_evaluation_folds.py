"""Which support slice serves which query slice, by hand and against the protocol's own words."""

import numpy as np
import pytest
import torch

from dataloaders.evaluation_folds import EvaluationFold, describe_missing_organs, plan_jobs
from dataloaders.evaluation_sets import (
    EvaluationScan,
    assign_by_height,
    assign_chunks,
    choose_support_slices,
    find_organ_slices,
    score_job,
)
from util.errors import UserError
from util.evaluation.report import organ_means
from util.io.image_io import Geometry

ORGANS = {1: "liver", 4: "spleen"}


def _scan(scan_id, n_slices=12, **slices_of_label):
    """A scan whose slices hold labels as given: `label_1=range(2, 8)`."""
    label_map = np.zeros((n_slices, 4, 5), dtype=np.int16)
    for name, slices in slices_of_label.items():
        # A pixel each, so that two organs fit in one slice.
        label = int(name.removeprefix("label_"))
        label_map[list(slices), label % 4, 1] = label
    geometry = Geometry(label_map.shape, (8.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    images = torch.zeros(n_slices, 1, 4, 5)
    return EvaluationScan(scan_id, images, label_map, label_map, geometry)


def _plan(scans, organs=ORGANS, **changes):
    support = scans[changes.pop("support_position", 0)]
    fold = EvaluationFold(scans, dict.fromkeys(organs, support))
    return plan_jobs(fold, organs, **{"n_part": 3, "all_slices": False, **changes})


def test_slices_with_an_organ_are_listed():
    label_map = _scan(0, label_1=[7, 3, 4], label_4=[4]).label_map
    assert find_organ_slices(label_map, 1).tolist() == [3, 4, 7]
    assert find_organ_slices(label_map, 4).tolist() == [4]
    assert find_organ_slices(label_map, 2).tolist() == []


@pytest.mark.parametrize(
    ("n_slices", "positions"),
    [
        (1, [0, 0, 0]),
        (2, [0, 1, 1]),  # int(0.33), int(1), int(1.67)
        (3, [0, 1, 2]),
        (6, [1, 3, 5]),
        (7, [1, 3, 5]),  # int(1.17), int(3.5), int(5.83)
        (10, [1, 5, 8]),
        (24, [4, 12, 20]),
    ],
)
def test_support_slices_are_at_a_sixth_a_half_and_five_sixths(n_slices, positions):
    slices = 100 + 2 * np.arange(n_slices)
    assert choose_support_slices(slices, 3).tolist() == [100 + 2 * position for position in positions]


def test_support_slices_are_the_truncated_fractions_for_every_length():
    for n in range(1, 300):
        expected = [int(fraction * n) for fraction in (1 / 6, 1 / 2, 5 / 6)]
        assert choose_support_slices(np.arange(n), 3).tolist() == expected


@pytest.mark.parametrize(("n_part", "positions"), [(1, [5]), (2, [2, 7]), (5, [1, 3, 5, 7, 9])])
def test_other_numbers_of_parts_take_the_middles_of_theirs(n_part, positions):
    assert choose_support_slices(np.arange(10), n_part).tolist() == positions


def test_a_support_without_slices_is_refused():
    with pytest.raises(ValueError, match="must contain the organ"):
        choose_support_slices(np.array([], dtype=int), 3)


@pytest.mark.parametrize(
    ("n_slices", "parts"),
    [
        (0, []),
        (1, [2]),  # cuts at 0, 0, 0, 1
        (2, [1, 2]),  # cuts at 0, 0, 1, 2
        (3, [0, 1, 2]),
        (7, [0, 0, 1, 1, 2, 2, 2]),  # cuts at 0, 2, 4, 7
        (8, [0, 0, 1, 1, 1, 2, 2, 2]),  # cuts at 0, 2, 5, 8
    ],
)
def test_chunks_are_cut_at_truncated_thirds(n_slices, parts):
    slices = 5 + np.arange(n_slices)
    assignment = assign_chunks(slices, 3)
    assert assignment.slices.tolist() == slices.tolist()
    assert assignment.parts.tolist() == parts


@pytest.mark.parametrize("n_part", [1, 2, 3, 5, 7])
def test_chunks_are_the_protocols_for_every_length(n_part):
    for n in range(200):
        cuts = np.linspace(0, n, n_part + 1).astype(int)
        expected = [part for part in range(n_part) for _ in range(cuts[part], cuts[part + 1])]
        assert assign_chunks(np.arange(n), n_part).parts.tolist() == expected


def test_the_nearest_relative_height_serves():
    # Support heights 0.15, 0.55, 0.95 of 10 slices; query heights 0.1, 0.3, 0.5, 0.7, 0.9 of 5.
    assignment = assign_by_height(5, np.array([1, 5, 9]), 10)
    assert assignment.slices.tolist() == [0, 1, 2, 3, 4]
    assert assignment.parts.tolist() == [0, 0, 1, 1, 2]


def test_heights_are_those_of_the_slices_middles():
    # Query heights 0.25 and 0.75, support heights 0.05 and 0.35: of the upper edges, 0 would be nearest to 0.
    assert assign_by_height(2, np.array([0, 3]), 10).parts.tolist() == [1, 1]
    # Support heights 0.25 and 0.75, query heights 0.05 to 0.95; 0.45 is nearer to 0.25, 0.55 to 0.75.
    assert assign_by_height(10, np.array([0, 1]), 2).parts.tolist() == [0] * 5 + [1] * 5


def test_of_two_equally_near_support_slices_the_first_serves():
    # Heights 0.25 and 0.75; the middle slice of three is at 0.5.
    assert assign_by_height(3, np.array([0, 1]), 2).parts.tolist() == [0, 0, 1]
    assert assign_by_height(4, np.array([3, 3, 3]), 8).parts.tolist() == [0, 0, 0, 0]


def test_heights_depend_on_no_labels_of_the_query():
    support = _scan(0, label_1=range(2, 8))
    plans = []
    for slices in (range(1, 4), range(9, 12)):
        jobs = _plan([support, _scan(1, label_1=slices)], {1: "liver"}, all_slices=True)
        plans.append(next(job.assignment for job in jobs if job.protocol == "all_slices"))
    assert plans[0].parts.tolist() == plans[1].parts.tolist()
    assert plans[0].slices.tolist() == list(range(12))


def test_each_organ_of_each_query_is_planned_after_its_own_slices():
    support = _scan(7, label_1=range(2, 8), label_4=[4, 5, 9])
    queries = [_scan(8, label_1=range(7), label_4=[0, 1, 2]), _scan(9, label_1=[4], label_4=[10, 11])]
    jobs = _plan([queries[0], support, queries[1]], support_position=1)
    result = {
        (job.query.scan_id, job.label): (
            job.support_slices.tolist(),
            job.assignment.slices.tolist(),
            job.assignment.parts.tolist(),
        )
        for job in jobs
    }
    assert result == {
        (8, 1): ([3, 5, 7], [0, 1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 2, 2, 2]),
        (9, 1): ([3, 5, 7], [4], [2]),
        (8, 4): ([4, 5, 9], [0, 1, 2], [0, 1, 2]),
        (9, 4): ([4, 5, 9], [10, 11], [1, 2]),
    }
    assert len(jobs) == 4
    assert all(job.support is support and job.main_support and job.protocol == "chunks" for job in jobs)


def test_a_query_without_an_organ_has_no_chunks_of_it_but_all_its_slices():
    support = _scan(0, label_1=range(3), label_4=range(4))
    scans = [support, _scan(1, label_1=[3]), _scan(2, label_4=[3], label_1=[3])]
    in_chunks = {(1, 1), (2, 1), (2, 4)}
    for all_slices, whole in ((False, set()), (True, in_chunks | {(1, 4)})):
        jobs = _plan(scans, all_slices=all_slices)
        for protocol, expected in (("chunks", in_chunks), ("all_slices", whole)):
            result = [(job.query.scan_id, job.label) for job in jobs if job.protocol == protocol]
            assert sorted(result) == sorted(expected)


def test_an_organ_predicted_where_it_is_absent_is_false_and_changes_no_mean():
    scans = [_scan(0, label_1=range(3)), _scan(1, label_1=[3]), _scan(2)]
    scores = []
    for job in _plan(scans, {1: "liver"}, all_slices=True):
        result = np.zeros((len(job.assignment.slices), *job.query.label_map.shape[1:]), np.float32)
        result[..., 0, 0] = 1
        options = {"method": "trained", "fold": 0, "organ": ORGANS[job.label], "nsd_tolerance_mm": 3.0}
        scores.append(score_job(job, result, **options))
    assert {score.query_id for score in scores if score.is_false} == {2}
    assert organ_means(scores) == organ_means([score for score in scores if not score.is_false])


def test_each_organ_has_its_own_support_which_is_a_query_of_the_others():
    scans = [_scan(5, label_1=range(3)), _scan(6, label_1=range(3), label_4=range(3)), _scan(8, label_4=[2])]
    fold = EvaluationFold(scans, {1: scans[0], 4: scans[1]})
    jobs = plan_jobs(fold, ORGANS, n_part=3, all_slices=False)
    result = {(job.support.scan_id, job.query.scan_id, job.label) for job in jobs}
    assert result == {(5, 6, 1), (6, 8, 4)}
    assert all(job.main_support for job in jobs)


def test_an_organ_without_support_is_skipped():
    scans = [_scan(5, label_1=range(3)), _scan(6, label_1=[3], label_4=range(2))]
    jobs = plan_jobs(EvaluationFold(scans, {1: scans[0]}), ORGANS, n_part=3, every_support=True)
    assert {job.label for job in jobs} == {1}


def test_a_support_outside_the_fold_leaves_every_scan_a_query():
    support, queries = _scan(9, label_1=range(3)), [_scan(0, label_1=[3]), _scan(1, label_1=[4]), _scan(2)]
    fold = EvaluationFold(queries, {1: support})
    jobs = plan_jobs(fold, ORGANS, n_part=3, chunks=False)
    assert [(job.query.scan_id, job.protocol) for job in jobs] == [(k, "all_slices") for k in range(3)]
    assert describe_missing_organs(fold, ORGANS) == ["liver: left out 1 query without it: scans [2]"]


def test_an_evaluation_of_nothing_is_refused():
    scans = [_scan(5, label_1=range(3)), _scan(6), _scan(8)]
    with pytest.raises(UserError, match=r"scan 6, scan 8: at least one must hold .* test_label \(liver\)"):
        _plan(scans, {1: "liver"}, all_slices=True, every_support=True)


def test_every_scan_is_the_support_in_turn_where_it_holds_the_organ():
    scans = [
        _scan(0, label_1=range(3), label_4=range(4)),
        _scan(1, label_1=range(3), label_4=()),
        _scan(2, label_1=range(3), label_4=range(4)),
    ]
    jobs = _plan(scans, support_position=2, every_support=True)
    assert {(job.support.scan_id, job.query.scan_id, job.label) for job in jobs} == {
        (2, 0, 1),
        (2, 1, 1),
        (2, 0, 4),
        (0, 1, 1),
        (0, 2, 1),
        (0, 2, 4),
        (1, 0, 1),
        (1, 2, 1),
    }
    assert len(jobs) == 8
    assert {job.support.scan_id for job in jobs if job.main_support} == {2}


def test_other_supports_serve_the_published_protocol_alone():
    scans = [_scan(scan_id, label_1=[3, 4, 5]) for scan_id in range(3)]
    jobs = _plan(scans, {1: "liver"}, all_slices=True, every_support=True)
    of_all_slices = [job for job in jobs if job.protocol == "all_slices"]
    assert [(job.support.scan_id, job.query.scan_id) for job in of_all_slices] == [(0, 1), (0, 2)]
    assert len([job for job in jobs if job.protocol == "chunks"]) == 6


def test_a_scan_never_serves_itself():
    scans = [_scan(scan_id, label_1=range(3)) for scan_id in range(4)]
    jobs = _plan(scans, {1: "liver"}, all_slices=True, every_support=True)
    assert jobs
    assert all(job.support is not job.query for job in jobs)
