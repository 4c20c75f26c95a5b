"""Which support slices serve together, what is encoded and prepared how often, and how they are joined."""

import pytest
import torch

from models.encoder import Encoded
from models.inference.scan import MeanSegmenter
from models.inference.segmenters import NetworkSegmenter, SupportSegmenter
from models.inference.supports import SupportBank, nearest_slices
from tests.models.small_network import make_network, smooth

CPU = torch.device("cpu")
SIZE = (33, 37)


@pytest.mark.parametrize(
    ("reference", "n", "expected"),
    [
        (5, 1, (5,)),
        (5, 2, (4, 5)),  # 4 and 6 are as near: the first
        (5, 3, (4, 5, 6)),
        (5, 5, (3, 4, 5, 6, 9)),  # 9 is 4 away, 10 is 5
        (3, 3, (3, 4, 5)),  # at the organ's end
        (10, 3, (6, 9, 10)),  # 6 is nearer than 5
        (9, 4, (5, 6, 9, 10)),
        (4, 99, (3, 4, 5, 6, 9, 10)),
    ],
)
def test_the_nearest_slices_with_the_organ_serve_in_order(reference, n, expected):
    assert nearest_slices([3, 4, 5, 6, 9, 10], reference, n) == expected
    assert nearest_slices([10, 4, 9, 3, 6, 5], reference, n) == expected


class _Adder(SupportSegmenter):
    """A segmenter whose supports are numbers that it adds to the slices; it notes what it is asked."""

    uses_queries = True

    def __init__(self):
        self.encoded, self.joined, self.prepared = [], [], []

    def encode(self, batches):
        encoded = torch.cat([images[:, 0] for images in batches])
        self.encoded.append(encoded[:, 0, 0].int().tolist())
        return encoded

    def take(self, encoding, positions):
        return encoding[positions]

    def join(self, encodings):
        self.joined.append(len(encodings))
        return torch.cat(list(encodings))

    def prepare(self, encoding, masks):
        self.prepared.append((encoding[:, 0, 0].int().tolist(), masks.clone()))
        return len(self.prepared) - 1

    def segment(self, support, encoding, *, image_size):
        return encoding + support


def _scan(n_slices=8, size=(2, 3)):
    """Slices that hold their index, organ 1 in slices 1 to 6 (its pixel (0, 0)), organ 4 in 5 and 6."""
    images = torch.arange(n_slices).float()[:, None, None, None].expand(-1, 1, *size)
    label_map = torch.zeros(n_slices, *size, dtype=torch.int16)
    label_map[1:7, 0, 0] = 1
    label_map[5:7, 1, 2] = 4
    return {"images": images, "label_map": label_map}


def _bank(segmenter, *, n_slices=1, join="probabilities", plans=((0, 1, (2, 4, 6)), (0, 4, (5, 6, 6)))):
    bank = SupportBank(segmenter, n_slices=n_slices, join=join, device=CPU)
    for scan_id, label, slices in plans:
        bank.plan(scan_id, label, **_scan(), slices=slices)
    return bank


def _served(bank, segmenter, label, part):
    return [segmenter.prepared[support][0] for support in bank.supports(0, label, part)]


def test_a_part_is_served_by_its_chosen_slice_and_the_organs_mask_there():
    segmenter = _Adder()
    bank = _bank(segmenter)
    assert [_served(bank, segmenter, 1, part) for part in range(3)] == [[[2]], [[4]], [[6]]]
    assert [_served(bank, segmenter, 4, part) for part in range(3)] == [[[5]], [[6]], [[6]]]
    [support] = bank.supports(0, 4, 1)
    masks = segmenter.prepared[support][1]
    assert masks.dtype == torch.float32
    assert masks.tolist() == [[[0, 0, 0], [0, 0, 1]]]
    [support] = bank.supports(0, 1, 2)
    assert segmenter.prepared[support][1].tolist() == [[[1, 0, 0], [0, 0, 0]]]


def test_neighbours_that_contain_the_organ_serve_each_alone():
    segmenter = _Adder()
    bank = _bank(segmenter, n_slices=3)
    assert _served(bank, segmenter, 1, 0) == [[1], [2], [3]]
    assert _served(bank, segmenter, 1, 2) == [[4], [5], [6]]  # 7 has no organ
    assert _served(bank, segmenter, 4, 0) == [[5], [6]]


def test_neighbours_serve_as_shots_of_one_support():
    segmenter = _Adder()
    bank = _bank(segmenter, n_slices=3, join="shots")
    assert _served(bank, segmenter, 1, 0) == [[1, 2, 3]]
    assert _served(bank, segmenter, 1, 2) == [[4, 5, 6]]
    assert _served(bank, segmenter, 4, 0) == [[5, 6]]
    [support] = bank.supports(0, 4, 0)
    assert segmenter.prepared[support][1].tolist() == 2 * [[[0, 0, 0], [0, 0, 1]]]


@pytest.mark.parametrize("join", ["probabilities", "shots"])
def test_each_slice_is_encoded_once_and_each_support_prepared_once(join):
    segmenter = _Adder()
    bank = _bank(segmenter, n_slices=3, join=join)
    assert segmenter.encoded == []
    for _ in range(2):
        for label in (1, 4):
            for part in range(3):
                bank.supports(0, label, part)
    assert sorted(segmenter.encoded) == [[1], [2], [3], [4], [5], [6]]
    # Of organ 1 each slice, or each of the threes; of organ 4 the two slices, or both together.
    assert len(segmenter.prepared) == {"probabilities": 6 + 2, "shots": 3 + 1}[join]


def test_scans_are_prepared_when_requested_and_separately():
    segmenter = _Adder()
    bank = _bank(segmenter, plans=[(0, 1, (2,)), (7, 1, (3,)), (7, 1, (3,))])
    first = bank.supports(0, 1, 0)
    assert segmenter.encoded == [[2]]
    assert bank.supports(7, 1, 0) != first
    assert segmenter.encoded == [[2], [3]]
    assert bank.supports(0, 1, 0) == first


@pytest.mark.parametrize(("n_slices", "join"), [(0, "shots"), (1, "votes")])
def test_options_that_mean_nothing_are_refused(n_slices, join):
    with pytest.raises(ValueError, match=f"got {n_slices} and '{join}'"):
        SupportBank(_Adder(), n_slices=n_slices, join=join, device=CPU)


def test_the_mean_segmenter_averages_what_each_support_gives():
    segmenter = MeanSegmenter(_Adder())
    encoding = segmenter.take(segmenter.encode([_scan()["images"]]), torch.tensor([3, 0]))
    result = segmenter.segment([1, 2, 6], encoding, image_size=(2, 3))
    torch.testing.assert_close(result, encoding + 3)


def test_the_mean_of_one_support_is_what_it_gives():
    class _Fixed(_Adder):
        def segment(self, support, encoding, *, image_size):
            return support

    support = torch.rand(1, 2, 3)
    assert MeanSegmenter(_Fixed()).segment([support], None, image_size=(2, 3)) is support


def _network_scan(seed=4):
    images = smooth(1, 6, 1, size_px=SIZE, seed=seed)[0].float() + 0.1
    label_map = torch.zeros(6, *SIZE, dtype=torch.int16)
    for index in range(1, 6):
        label_map[index, 8 : 20 + index, 4 + index : 22] = 1
    return images, label_map


def _segment_after(join, n_slices):
    images, label_map = _network_scan()
    queries = smooth(1, 3, 1, size_px=SIZE, seed=3)[0].float()
    model = make_network().float()
    segmenter = NetworkSegmenter(model)
    bank = SupportBank(segmenter, n_slices=n_slices, join=join, device=CPU)
    bank.plan(0, 1, images=images, label_map=label_map, slices=(2, 4))
    mean = MeanSegmenter(segmenter)
    result = mean.segment(bank.supports(0, 1, 1), mean.encode([queries]), image_size=SIZE)
    return model, images[3:6], (label_map[3:6] == 1).float(), queries, result


def test_shots_give_what_the_network_gives_after_all_slices_at_once():
    model, shots, masks, queries, result = _segment_after("shots", 3)
    with torch.no_grad():
        expected = model.predict(shots[None], masks[None], queries[None])[0, :, 1]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        middle = model.predict(shots[None, 1:2], masks[None, 1:2], queries[None])[0, :, 1]
    assert (result - middle).abs().max() > 1e-3


def test_probabilities_give_the_mean_of_what_the_network_gives_after_each_slice():
    model, shots, masks, queries, result = _segment_after("probabilities", 3)
    with torch.no_grad():
        alone = [
            model.predict(shots[None, i, None], masks[None, i, None], queries[None])[0, :, 1]
            for i in range(3)
        ]
    torch.testing.assert_close(result, sum(alone) / 3, atol=1e-5, rtol=0)
    assert (alone[0] - alone[2]).abs().max() > 1e-3


@pytest.mark.parametrize("join", ["probabilities", "shots"])
def test_a_single_slice_gives_what_it_always_gave_to_the_bit(join):
    images, label_map = _network_scan()
    queries = smooth(1, 3, 1, size_px=SIZE, seed=3)[0].float()
    segmenter = NetworkSegmenter(make_network().float())
    bank = SupportBank(segmenter, n_slices=1, join=join, device=CPU)
    bank.plan(0, 1, images=images, label_map=label_map, slices=(2, 4))
    encoding = segmenter.encode([queries])
    result = MeanSegmenter(segmenter).segment(bank.supports(0, 1, 1), encoding, image_size=SIZE)

    # The three steps as they are without any choice.
    with torch.inference_mode():
        features, tau = segmenter.model.encoder(images[4:5])
        shot = Encoded(features=features[None], tau=tau[None])
        state = segmenter.model.prepare_support(shot, (label_map[4] == 1).float()[None, None])
        expected = segmenter.model.segment(state, encoding, image_size=SIZE).probabilities[0, :, 1]
    assert torch.equal(result, expected)
