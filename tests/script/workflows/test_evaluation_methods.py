"""Jobs of a fold: the choices of test time against plain loops, and their defaults to the bit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from config_ssl_upload import EvaluationConfig
from dataloaders.evaluation_folds import EvaluationFold, plan_jobs
from dataloaders.evaluation_sets import EvaluationScan, find_organ_slices
from models.few_shot_seg import FewShotSeg
from models.inference import calls
from models.inference.segmenters import CopySegmenter, CosineSegmenter, NetworkSegmenter
from models.inference.supports import nearest_slices
from models.inference.test_time_augmentation import PERTURBATIONS, average_over_versions
from script.workflows.evaluation_methods import improve, segment_jobs
from tests.models.small_network import make_network, smooth
from util.evaluation.postprocess import keep_largest_component
from util.io.image_io import Geometry

CPU = torch.device("cpu")
SIZE, N_SLICES = (33, 37), 7
ORGANS = {1: "liver", 4: "spleen"}


def _scan(scan_id, label_map_size=SIZE):
    """A random scan with two organs that change from slice to slice; its own grid may be another."""
    images = smooth(1, N_SLICES, 1, size_px=SIZE, seed=scan_id)[0].float() + 0.05 * (scan_id % 2)
    maps = []
    for height, width in (SIZE, label_map_size):
        label_map = np.zeros((N_SLICES, height, width), dtype=np.int16)
        for index in range(1, N_SLICES - 1):
            label_map[index, height // 4 : height // 2 + index, width // 5 + index : width // 2 + 2] = 1
            if index > 2:
                label_map[index, 2 * height // 3 :, 2 * width // 3 : -index] = 4
        maps.append(label_map)
    axes = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    geometry = Geometry(maps[1].shape, (8.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes)
    return EvaluationScan(scan_id, images, *maps, geometry)


@pytest.fixture(name="jobs", scope="module")
def _jobs():
    scans = [_scan(0), _scan(3), _scan(5, label_map_size=(45, 40))]
    fold = EvaluationFold(scans, dict.fromkeys(ORGANS, scans[0]))
    return plan_jobs(fold, ORGANS, n_part=3, every_support=True)


@pytest.fixture(name="few_jobs", scope="module")
def _few_jobs(jobs):
    """Jobs of either protocol and organ, with two supports; one query has another grid."""
    selected = jobs[2:6] + jobs[-2:]
    assert {job.protocol for job in selected} == {"chunks", "all_slices"}
    assert {job.label for job in selected} == set(ORGANS)
    assert {job.main_support for job in selected} == {True, False}
    assert len({job.query.label_map.shape for job in selected}) == 2
    return selected


@pytest.fixture(name="network", scope="module")
def _network() -> FewShotSeg:
    """A network that no test may change."""
    return make_network().float()


@pytest.fixture(name="by_default", scope="module")
def _by_default(network, jobs):
    """The jobs with what the defaults make of them."""
    return _segment(NetworkSegmenter(network), jobs)


def _config(**choices):
    defaults = {
        "support_slices": 1,
        "join_support": "probabilities",
        "test_time_augmentation": 1,
        "largest_component": False,
        "slices_per_call": None,
    }
    return SimpleNamespace(evaluation=SimpleNamespace(**{**defaults, **choices}))


def _segment(segmenter, jobs, **choices):
    """Segment jobs; also check that all come, in the queries' order."""
    actual = list(segment_jobs(segmenter, jobs, config=_config(**choices), device=CPU, name="test"))
    query_ids = dict.fromkeys(job.query.scan_id for job in jobs)
    expected = [job for query_id in query_ids for job in jobs if job.query.scan_id == query_id]
    assert all(job is other for (job, _), other in zip(actual, expected, strict=True))
    return actual


def _segment_slice_by_slice(segmenter, job, supports_of, images=None):
    """Segment a job's slices one at a time, with nothing kept.

    `supports_of` gives, for the slice that was chosen, the support slices of each support.
    """
    images = job.query.images if images is None else images
    result = []
    for index, part in zip(job.assignment.slices, job.assignment.parts, strict=True):
        encoding = segmenter.encode([images[index, None]])
        actual = []
        for slices in supports_of(int(job.support_slices[part])):
            shots = segmenter.join([segmenter.encode([job.support.images[z, None]]) for z in slices])
            masks = torch.from_numpy((job.support.support_labels[list(slices)] == job.label).astype("f4"))
            actual.append(segmenter.segment(segmenter.prepare(shots, masks), encoding, image_size=SIZE)[0])
        result.append(sum(actual) / len(actual))
    return torch.stack(result)


def _resize(foreground, job):
    size = job.query.label_map.shape[1:]
    if tuple(foreground.shape[1:]) != size:
        foreground = torch.nn.functional.interpolate(foreground[:, None], size=size, mode="bilinear")[:, 0]
    return foreground.numpy()


def _largest_difference(actual, expected_of):
    return max(np.abs(probabilities - expected_of(job)).max() for job, probabilities in actual)


def test_the_defaults_give_what_slices_give_alone(network, by_default):
    segmenter = NetworkSegmenter(network)
    for job, probabilities in by_default:
        alone = _segment_slice_by_slice(segmenter, job, lambda z: [(z,)])
        np.testing.assert_allclose(probabilities, _resize(alone, job), rtol=0, atol=1e-6)
        assert probabilities.shape[1:] == job.query.label_map.shape[1:]


def test_slices_that_are_decoded_alone_give_it_to_the_bit(network, few_jobs, monkeypatch):
    monkeypatch.setattr(calls, "CPU_PIXELS_PER_DECODING", 0)
    segmenter = NetworkSegmenter(network)
    for job, probabilities in _segment(segmenter, few_jobs):
        alone = _segment_slice_by_slice(segmenter, job, lambda z: [(z,)])
        np.testing.assert_array_equal(probabilities, _resize(alone, job))


@pytest.mark.parametrize("join", ["probabilities", "shots"])
def test_several_support_slices_are_joined_as_plain_loops_join_them(network, few_jobs, by_default, join):
    segmenter = NetworkSegmenter(network)

    def expected_of(job):
        with_organ = find_organ_slices(job.support.support_labels, job.label).tolist()

        def supports_of(slice_idx):
            near = nearest_slices(with_organ, slice_idx, 3)
            return [near] if join == "shots" else [(z,) for z in near]

        return _resize(_segment_slice_by_slice(segmenter, job, supports_of), job)

    actual = _segment(segmenter, few_jobs, support_slices=3, join_support=join)
    assert _largest_difference(actual, expected_of) < 1e-5
    plain = {id(job): probabilities for job, probabilities in by_default}
    assert _largest_difference(actual, lambda job: plain[id(job)]) > 1e-3


def test_test_time_augmentation_are_averaged_before_the_resize(network, jobs, by_default):
    segmenter = NetworkSegmenter(network)

    def expected_of(job):
        def segment(images):
            yield _segment_slice_by_slice(segmenter, job, lambda z: [(z,)], images)

        [mean] = average_over_versions(segment, job.query.images, 3)
        return _resize(mean, job)

    actual = _segment(segmenter, jobs[:6], test_time_augmentation=3, slices_per_call=2)
    assert _largest_difference(actual, expected_of) < 1e-5
    plain = {id(job): probabilities for job, probabilities in by_default}
    assert _largest_difference(actual, lambda job: plain[id(job)]) > 1e-3


def test_cleaning_comes_last(network, few_jobs):
    segmenter = NetworkSegmenter(network)
    choices = {"test_time_augmentation": 2, "support_slices": 2}
    raw = _segment(segmenter, few_jobs, **choices)
    cleaned = _segment(segmenter, few_jobs, largest_component=True, **choices)
    for (_, probabilities), (_, clean) in zip(raw, cleaned, strict=True):
        np.testing.assert_array_equal(clean, keep_largest_component(probabilities))
    assert any((a != b).any() for (_, a), (_, b) in zip(raw, cleaned, strict=True))


class _Counter(NetworkSegmenter):
    """Counts the slices that are encoded and the supports that are prepared."""

    def __init__(self, model):
        super().__init__(model)
        self.n_encoded = self.n_prepared = self.most_at_once = 0

    def encode(self, batches):
        batches = list(batches)
        self.n_encoded += sum(map(len, batches))
        self.most_at_once = max(self.most_at_once, *map(len, batches))
        return super().encode(batches)

    def prepare(self, encoding, masks):
        self.n_prepared += 1
        return super().prepare(encoding, masks)


@pytest.mark.parametrize("n_versions", [1, 1 + len(PERTURBATIONS)])
def test_slices_are_encoded_once_a_version_and_supports_prepared_once(network, jobs, n_versions):
    segmenter = _Counter(network)
    choices = {"support_slices": 3, "test_time_augmentation": n_versions, "slices_per_call": 2}
    of_main = [job for job in jobs if job.main_support]
    _segment(segmenter, of_main, **choices)
    # Organ 1 lies in slices 1 to 5, organ 4 in 3 to 5: all of them serve. Two queries, segmented wholly.
    assert segmenter.n_encoded == 5 + n_versions * 2 * N_SLICES
    assert segmenter.n_prepared == 5 + 3
    assert segmenter.most_at_once == 2


@pytest.mark.parametrize(
    "choices", [{}, {"support_slices": 3, "test_time_augmentation": 3, "largest_component": True}]
)
def test_a_second_time_gives_the_same_and_leaves_the_scans_as_they_were(network, jobs, choices):
    segmenter = NetworkSegmenter(network)
    scans = [scan for job in jobs for scan in (job.support, job.query)]
    before = [(scan.images.clone(), scan.support_labels.copy(), scan.label_map.copy()) for scan in scans]
    first, again = (_segment(segmenter, jobs[:4], **choices) for _ in range(2))
    for (_, a), (_, b) in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    for scan, (images, support_labels, label_map) in zip(scans, before, strict=True):
        assert torch.equal(scan.images, images)
        np.testing.assert_array_equal(scan.support_labels, support_labels)
        np.testing.assert_array_equal(scan.label_map, label_map)


def test_copied_masks_are_those_of_the_slices_whatever_the_test_time_augmentation(jobs):
    of_own_size = [job for job in jobs if job.query.label_map.shape[1:] == SIZE]
    actual = _segment(CopySegmenter(), of_own_size, test_time_augmentation=5)
    for job, probabilities in actual:
        masks = job.support.support_labels == job.label
        expected = masks[job.support_slices[job.assignment.parts]]
        np.testing.assert_array_equal(probabilities, expected.astype(np.float32))


def test_copied_masks_of_several_slices_are_averaged(jobs):
    job = next(job for job in jobs if job.label == 1 and job.query.label_map.shape[1:] == SIZE)
    assert job.support_slices.tolist() == [1, 3, 5]
    masks = (job.support.support_labels == 1).astype(np.float32)
    expected = np.stack([masks[1:4], masks[2:5], masks[3:6]]).mean(axis=1)[job.assignment.parts]
    for join in ("probabilities", "shots"):
        [(_, actual)] = _segment(CopySegmenter(), [job], support_slices=3, join_support=join)
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_cosine_matching_goes_through_the_same_choices(network, jobs):
    segmenter = CosineSegmenter(network.encoder)
    plain = _segment(segmenter, jobs[:2])
    for choices in ({"support_slices": 3}, {"test_time_augmentation": 2}, {"largest_component": True}):
        changed = _segment(segmenter, jobs[:2], **choices)
        assert any((a != b).any() for (_, a), (_, b) in zip(plain, changed, strict=True))


def test_a_unet_joins_networks_alone_and_before_anything_else_improves_them(jobs):
    job = next(job for job in jobs if job.main_support)
    shape = (len(job.assignment.slices), *SIZE)
    network, unet = np.full(shape, 0.6, np.float32), np.full(shape, 0.9, np.float32)
    unets = SimpleNamespace(segment_job=lambda requested: unet if requested is job else None)
    config = SimpleNamespace(evaluation=EvaluationConfig(unet_joins=True, intensity_weight=1.0))

    def versions(method):
        return dict(improve(config, job, network, method=method, warped=None, unets=unets))

    joined = versions("adapted")
    assert list(joined) == ["adapted", "adapted + U-Net", "adapted + U-Net + intensities"]
    np.testing.assert_allclose(joined["adapted + U-Net"], 1 / (1 + np.sqrt(2 / 27)), atol=1e-5)
    assert list(versions("registration")) == ["registration", "registration + intensities"]
    assert list(versions("one-scan U-Net")) == ["one-scan U-Net", "one-scan U-Net + intensities"]
    assert list(versions("copied support mask")) == ["copied support mask"]


@pytest.mark.parametrize("largest_component", [False, True])
def test_what_a_unet_joins_has_one_component_if_requested(jobs, largest_component):
    job = next(job for job in jobs if job.main_support)
    network = np.full((len(job.assignment.slices), *SIZE), 0.1, np.float32)
    network[:, :2, :2] = network[:, -9:, -9:] = 0.9
    unets = SimpleNamespace(segment_job=lambda job: network)
    options = EvaluationConfig(unet_joins=True, largest_component=largest_component)
    config = SimpleNamespace(evaluation=options)
    *_, (_, joined) = improve(config, job, network, method="adapted", warped=None, unets=unets)
    assert (joined[:, -9:, -9:] > 0.5).all()
    assert (joined[:, :2, :2] > 0.5).any() != largest_component
