"""The prior masks of a report's cases are those of the network that predicts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from config_ssl_upload import dataset_defaults, parse_config
from dataloaders.evaluation_folds import EvaluationFold, plan_jobs
from dataloaders.evaluation_sets import EvaluationScan, score_job
from models.inference.inspection import inspect_query
from script.workflows.case_recording import record_case, record_prior_masks
from script.workflows.networks import load_trained, make_network
from tests.util.evaluation.example_cases import read_bars
from util.engine.snapshots import Snapshot
from util.evaluation.report_cases import Cases, choose_cases
from util.io.image_io import Geometry

pytestmark = pytest.mark.usefixtures("narrow_encoder")

ORGANS = {1: "liver", 4: "spleen"}
N_SLICES, SIZE, FULL_SIZE = 6, (32, 40), (45, 52)
LPS = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
GEOMETRY = Geometry((N_SLICES, *FULL_SIZE), (8.0, 1.0, 1.0), (0.0, 0.0, 0.0), LPS)


def make_scan(scan_id):
    """Make a random scan with two organs in each slice; the labels' own grid is larger."""
    generator = np.random.default_rng(scan_id)
    images = torch.from_numpy(generator.normal(size=(N_SLICES, 1, *SIZE)).astype(np.float32))
    maps = []
    for height, width in (SIZE, FULL_SIZE):
        label_map = np.zeros((N_SLICES, height, width), np.int16)
        label_map[:, height // 4 : 3 * height // 4, : width // 3] = 1
        label_map[:, height // 2 :, width // 2 :] = 4
        images[:, 0][torch.from_numpy(label_map[:, : SIZE[0], : SIZE[1]]) == 1] += 1.5
        maps.append(label_map)
    return EvaluationScan(scan_id, images, *maps, GEOMETRY)


def record(jobs, predictions):
    """Record a case of each job, whose prediction is the truth without some of its slices."""
    cases = Cases()
    for job, n_missing in zip(jobs, predictions, strict=True):
        probabilities = (job.query.label_map[job.assignment.slices] == job.label).astype(float)
        probabilities[:n_missing] = 0
        options = {"fold": 0, "organ": ORGANS[job.label], "nsd_tolerance_mm": 3.0}
        record_case(cases, job, probabilities, score_job(job, probabilities, method="trained", **options))
    return cases


@pytest.fixture(name="jobs", scope="module")
def _jobs():
    scans = [make_scan(scan_id) for scan_id in range(5)]
    fold = EvaluationFold(scans, dict.fromkeys(ORGANS, scans[0]))
    return plan_jobs(fold, ORGANS, n_part=3)


@pytest.fixture(name="config", scope="module")
def _config():
    model = {"encoder": "resnet18", "feature_width": 8, "prior_form": "contrast", "encoder_weights": None}
    return parse_config(dataset_defaults("PHANTOM") | {"model": model})


def make_snapshot(config, seed):
    weights = make_network(config.model_copy(update={"seed": seed})).state_dict()
    return Snapshot(step=1, weights=weights, config={}, versions={})


def expected_masks(network, case, jobs):
    """Inspect each displayed slice alone, by the code that `show_episodes.sh` uses."""
    [job] = [
        job
        for job in jobs
        if (job.protocol, job.query.scan_id, job.label)
        == (case.score.protocol, case.score.query_id, case.score.label)
    ]
    masks = []
    for pair in case.pairs:
        support = job.support.images[pair.support_slice_idx]
        mask = torch.from_numpy(job.support.support_labels[pair.support_slice_idx] == job.label).float()
        prior = inspect_query(network, support, mask, job.query.images[pair.slice_idx]).prior_masks.foreground
        masks.append(F.interpolate(prior, FULL_SIZE, mode="bilinear", align_corners=True)[0, 0] > 0.5)
    return [mask.numpy() for mask in masks]


def test_worst_median_and_best_get_the_prior_masks_of_the_network_that_predicts(config, jobs, capsys):
    # Four queries: of each organ and protocol the third best is not shown.
    cases = record(jobs, [job.query.scan_id for job in jobs])
    snapshots = {(0, label): make_snapshot(config, seed=label) for label in ORGANS}
    record_prior_masks(config, snapshots, jobs, cases, device=torch.device("cpu"))
    with_priors = [case for case in cases.cases if case.pairs[0].prior is not None]
    shown = {case.score.query_id for _, case in choose_cases(cases.cases[: len(cases.cases) // 2])}
    assert {case.score.query_id for case in with_priors} == shown == {1, 3, 4}
    assert len(with_priors) == 3 * len(ORGANS) * len({job.protocol for job in jobs})
    networks = {label: load_trained(config, snapshots[0, label]).eval() for label in ORGANS}
    n_masks = 0
    for case in with_priors:
        expected = expected_masks(networks[case.score.label], case, jobs)
        for pair, mask in zip(case.pairs, expected, strict=True):
            assert 0 < mask.mean() < 1
            np.testing.assert_array_equal(read_bars(pair.prior.fill, FULL_SIZE), mask)
            assert pair.prior.area_share == pytest.approx(mask.mean())
            n_masks += 1
    assert f"prior masks for the report: {n_masks}, " in capsys.readouterr().out


def test_the_published_form_from_scratch_has_empty_prior_masks(config, jobs):
    literal = config.model_copy(update={"model": config.model.model_copy(update={"prior_form": "literal"})})
    few = jobs[:1]
    cases = record(few, [0])
    snapshot = make_snapshot(literal, seed=1)
    record_prior_masks(literal, {(0, few[0].label): snapshot}, few, cases, device=torch.device("cpu"))
    [pair, *_] = cases.cases[0].pairs
    assert (pair.prior.fill, pair.prior.area_share) == ("", 0)


def test_a_query_without_the_organ_gets_none(config, jobs):
    empty = replace(jobs[-1].query, label_map=np.zeros_like(jobs[-1].query.label_map))
    job = replace(jobs[-1], query=empty)
    cases = record([job], [0])
    before = list(cases.cases)
    record_prior_masks(config, {}, [job], cases, device=torch.device("cpu"))
    assert cases.cases == before
