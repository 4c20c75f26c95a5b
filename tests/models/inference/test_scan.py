"""Many slices in few calls: what is encoded and prepared how often, and in which order results come."""

import pytest
import torch
from torch.nn import functional as F

from models.inference import calls
from models.inference.calls import Request, best_pairs_per_decoding, best_slices_per_call, split_calls
from models.inference.scan import resize_slices, segment_scan
from models.inference.segmenters import NetworkSegmenter, SliceSegmenter
from tests.models.prototype_cases import disc
from tests.models.small_network import make_network, smooth

CPU = torch.device("cpu")
N_SLICES, SIZE = 9, (2, 3)


class _Recorder(SliceSegmenter):
    """A segmenter whose slices are their own encodings, and which notes what it is asked."""

    def __init__(self):
        self.batches, self.calls = [], []

    def encode(self, batches):
        encoded = []
        for images in batches:
            self.batches.append(images[:, 0, 0, 0].tolist())
            encoded.append(images[:, 0])
        return torch.cat(encoded)

    def take(self, encoding, positions):
        return encoding[positions]

    def segment(self, support, encoding, *, image_size):
        assert image_size == SIZE
        return encoding + 100 * support

    def segment_each(self, supports, encoding, **options):
        self.calls.append((supports, encoding[:, 0, 0].tolist()))
        options.pop("per_call")
        return torch.stack([self.segment(support, encoding, **options) for support in supports])


def _images():
    """Slices that hold their own index everywhere."""
    return torch.arange(N_SLICES).float()[:, None, None, None].expand(-1, 1, *SIZE)


def _request(slices, parts, support_of=lambda part: part, **options):
    return Request(torch.tensor(slices), torch.tensor(parts), support_of, **options)


def _run(segmenter, requests, *, per_call=3, images=None, **listeners):
    listeners = {"on_encoding": lambda text: None, "on_segmented": lambda n: None, **listeners}
    images = _images() if images is None else images
    return segment_scan(segmenter, images, requests, per_call=per_call, device=CPU, **listeners)


def test_each_wanted_slice_is_encoded_once_whatever_the_requests():
    segmenter = _Recorder()
    list(_run(segmenter, [_request([7, 2, 4], [0, 0, 1]), _request([4, 5, 7, 8], [0, 0, 0, 0])]))
    assert segmenter.batches == [[2, 4, 5], [7, 8]]


def test_a_call_has_slices_of_equal_supports_and_at_most_the_allowed_pairs(monkeypatch):
    monkeypatch.setattr(calls, "CPU_PIXELS_PER_DECODING", 0)
    segmenter = _Recorder()
    requests = [_request([0, 1, 2, 3, 4, 5], [1, 0, 1, 1, 0, 1]), _request([3, 1], [5, 5])]
    list(_run(segmenter, requests, per_call=3))
    assert segmenter.calls == [([1], [0, 2, 5]), ([0, 5], [1]), ([1, 5], [3]), ([0], [4])]


def test_results_stand_in_the_order_of_the_requests_and_of_their_slices():
    requests = [_request([6, 1, 3], [2, 0, 2]), _request([3, 6], [1, 1])]
    first, second = _run(_Recorder(), requests, per_call=1)
    assert first.shape == (3, *SIZE)
    assert first[:, 0, 0].tolist() == [206, 1, 203]
    assert second[:, 1, 2].tolist() == [103, 106]
    assert first.dtype == torch.float32


def test_a_slice_may_be_requested_twice():
    (actual,) = _run(_Recorder(), [_request([5, 5, 0], [0, 1, 0])])
    assert actual[:, 0, 0].tolist() == [5, 105, 0]


def test_requests_of_the_same_supports_share_results():
    segmenter, done = _Recorder(), []
    requests = [
        _request([4, 5, 6], [0, 0, 1], support_key="liver"),
        _request([5, 6], [0, 1], support_key="spleen", support_of=lambda part: part + 2),
        _request([3, 4, 5, 6, 7], [0, 0, 1, 1, 1], support_key="liver"),
        _request([4], [0]),
    ]
    results = list(_run(segmenter, requests, on_segmented=done.append))
    # Slice 5 is in both parts of the liver, and slice 4 is wanted of a request that shares nothing.
    assert segmenter.calls == [([0, 0], [4]), ([0, 2, 1], [5]), ([1, 3], [6]), ([0], [3]), ([1], [7])]
    assert [actual[:, 0, 0].tolist() for actual in results] == [
        [4, 5, 106],
        [205, 306],
        [3, 4, 105, 106, 107],
        [4],
    ]
    assert sum(done) == 3 + 2 + 5 + 1


def test_supports_are_requested_once_the_first_result_is():
    requested = []

    def support_of(part):
        requested.append(part)
        return part

    requests = [_request([0, 1], [3, 1], support_of), _request([2], [2], support_of)]
    results = _run(_Recorder(), requests)
    assert requested == []
    next(results)
    assert sorted(requested) == [1, 2, 3]


def test_requests_whose_results_exceed_the_memory_are_segmented_one_after_the_other(monkeypatch):
    monkeypatch.setattr(calls, "MAX_HELD_PIXELS", 4 * SIZE[0] * SIZE[1])
    requests = [_request(slices, [0] * len(slices)) for slices in ([0, 1], [2, 3], [0, 1, 2, 3, 4], [1])]
    groups = calls.split_requests(requests, n_pixels=SIZE[0] * SIZE[1])
    assert [[len(request.slices) for request in group] for group in groups] == [[2, 2], [5], [1]]
    results = _run(_Recorder(), requests)
    assert [actual[:, 0, 0].tolist() for actual in results] == [[0, 1], [2, 3], [0, 1, 2, 3, 4], [1]]


def test_progress_is_reported_before_each_batch_and_after_each_call(monkeypatch):
    monkeypatch.setattr(calls, "CPU_PIXELS_PER_DECODING", 0)
    output, done = [], []
    requests = [_request([0, 1, 2, 3, 4], [0, 0, 0, 0, 1])]
    list(_run(_Recorder(), requests, per_call=2, on_encoding=output.append, on_segmented=done.append))
    assert output == ["slice 1 of 5", "slice 3 of 5", "slice 5 of 5", ""]
    assert done == [0, 2, 2, 1]


@pytest.mark.parametrize("per_call", [1, 2, 4, 100])
def test_calls_hold_every_pair_once_and_no_more_than_allowed(per_call):
    parts_of = {0: "a", 3: "ab", 1: "a", 7: "ba", 4: "ab", 2: "a", 5: "ab", 9: "a"}
    planned = list(split_calls(parts_of, per_call))
    pairs = sorted((index, part) for parts, slices in planned for index in slices for part in parts)
    assert pairs == sorted((index, part) for index, parts in parts_of.items() for part in parts)
    assert len(planned) == {1: 8, 2: 6, 4: 4, 100: 3}[per_call]
    assert all(len(slices) == 1 or len(parts) * len(slices) <= per_call for parts, slices in planned)


@pytest.mark.parametrize("per_call", [1, 2, 5])
def test_the_network_gives_for_each_slice_what_it_gives_alone(per_call):
    model = make_network().float()
    images = smooth(1, 6, 1, size_px=(33, 37), seed=3)[0].float()
    shots = smooth(1, 2, 1, size_px=(33, 37), seed=4)[0].float() + 0.1
    masks = [disc((33, 37), (15, 12 + 6 * part), 7).float() for part in range(2)]
    segmenter = NetworkSegmenter(model)
    supports = [segmenter.prepare(segmenter.encode([shots[i, None]]), masks[i]) for i in range(2)]
    slices, parts = [5, 0, 3, 4], [1, 0, 1, 1]
    request = _request(slices, parts, supports.__getitem__)
    (actual,) = _run(segmenter, [request], per_call=per_call, images=images)
    with torch.no_grad():
        for result, index, part in zip(actual, slices, parts, strict=True):
            alone = model.predict(shots[None, part, None], masks[part][None, None], images[None, index, None])
            torch.testing.assert_close(result, alone[0, 0, 1], rtol=0, atol=1e-5)
    assert (actual[0] - actual[2]).abs().max() > 1e-3


def test_slices_of_the_requested_size_are_returned_as_they_are():
    images = torch.rand(2, 4, 6)
    assert resize_slices(images, (4, 6)) is images


def test_other_slices_are_resized_as_images_are():
    images = torch.tensor([[[0.0, 1.0]], [[2.0, 2.0]]])
    actual = resize_slices(images, (1, 4))
    # Pixel centres at 1/8, 3/8, 5/8, 7/8 of the width, between the old ones at 1/4 and 3/4.
    torch.testing.assert_close(actual[0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))
    torch.testing.assert_close(actual[1, 0], torch.full((4,), 2.0))
    both = torch.rand(3, 5, 7)
    expected = F.interpolate(both[:, None], size=(9, 4), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(resize_slices(both, [9, 4]), expected)


def test_a_cpu_decodes_small_slices_together_and_a_gpu_many_of_any_size():
    actual = [best_pairs_per_decoding(torch.device("cpu"), (size, size)) for size in (64, 128, 256, 512)]
    assert actual == [16, 4, 1, 1]
    assert best_pairs_per_decoding(torch.device("cuda"), (512, 512)) > 4


def test_a_cpu_takes_one_slice_a_call_and_a_gpu_many():
    assert best_slices_per_call(torch.device("cpu")) == 1
    assert best_slices_per_call(torch.device("cuda:1")) > 4
