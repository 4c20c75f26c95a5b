"""Changed copies of slices: by hand, by properties, and against plain loops."""

import math

import pytest
import torch

from models.inference.test_time_augmentation import (
    MAX_VERSIONS,
    PERTURBATIONS,
    Perturbation,
    average_over_versions,
)


def _images(n=3, size=(11, 14), seed=0):
    return torch.randn(n, 1, *size, generator=torch.Generator().manual_seed(seed))


def test_a_copy_is_shifted_down_and_right_and_filled_up_with_the_minimum():
    image = torch.tensor([[4.0, 3.0, 5.0], [6.0, 7.0, 8.0]])[None, None]
    copy = Perturbation(shift_px=(1, 2), scale=1, gamma=1).apply(image)
    torch.testing.assert_close(copy[0, 0], torch.tensor([[3.0, 3.0, 3.0], [3.0, 3.0, 4.0]]))
    copy = Perturbation(shift_px=(0, 1), scale=1, gamma=1).apply(image)
    torch.testing.assert_close(copy[0, 0], torch.tensor([[3.0, 4.0, 3.0], [3.0, 6.0, 7.0]]))
    copy = Perturbation(shift_px=(-1, 0), scale=1, gamma=1).apply(image)
    torch.testing.assert_close(copy[0, 0], torch.tensor([[6.0, 7.0, 8.0], [3.0, 3.0, 3.0]]))


def test_a_copy_is_scaled_about_the_centre():
    image = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 1, 4, 4)
    copy = Perturbation(shift_px=(0, 0), scale=2, gamma=1).apply(image)
    # Half as far from the centre, which is at 1.5.
    torch.testing.assert_close(copy[0, 0], torch.tensor([0.75, 1.25, 1.75, 2.25]).expand(4, 4))


def test_intensities_are_bent_between_each_slices_own_extremes():
    images = torch.tensor([[[[-1.0, 0.0, 3.0]]], [[[0.0, 0.01, 1.0]]], [[[2.0, 2.0, 2.0]]]])
    copies = Perturbation(shift_px=(0, 0), scale=1, gamma=0.5).apply(images)
    expected = torch.tensor([[[[-1.0, 1.0, 3.0]]], [[[0.0, 0.1, 1.0]]], [[[2.0, 2.0, 2.0]]]])
    torch.testing.assert_close(copies, expected)


def test_undoing_moves_probabilities_back_and_leaves_0_where_the_copy_does_not_reach():
    result = torch.tensor([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])
    undone = Perturbation(shift_px=(1, 2), scale=1, gamma=3).undo(result)
    torch.testing.assert_close(undone, torch.tensor([[[0.6, 0.0, 0.0], [0.0, 0.0, 0.0]]]))
    undone = Perturbation(shift_px=(0, 0), scale=2, gamma=1).undo(torch.ones(1, 4, 4))
    # Twice as far from the centre: at -1.5, 0.5, 2.5 and 4.5 of 0 to 3.
    torch.testing.assert_close(undone[0], torch.outer(edge := torch.tensor([0.0, 1.0, 1.0, 0.0]), edge))


@pytest.mark.parametrize("change", PERTURBATIONS)
def test_undoing_a_copy_gives_the_slice_back(change):
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    # Smooth, and 0 at the borders, so that neither interpolation nor what comes in costs anything.
    slices = torch.exp(-((rows - 15) ** 2 + (columns - 30) ** 2) / 50)[None, None]
    moved = Perturbation(shift_px=change.shift_px, scale=change.scale, gamma=1).apply(slices)
    assert (moved - slices).abs().max() > 0.1
    torch.testing.assert_close(change.undo(moved[:, 0]), slices[:, 0], atol=0.03, rtol=0)


def test_changes_come_in_opposite_pairs_within_what_training_varies():
    assert len(PERTURBATIONS) == MAX_VERSIONS - 1 == 4
    for change, opposite in zip(PERTURBATIONS[::2], PERTURBATIONS[1::2], strict=True):
        assert change.shift_px == tuple(-px for px in opposite.shift_px)
        assert change.scale * opposite.scale == pytest.approx(1)
        assert change.gamma * opposite.gamma == pytest.approx(1)
    # The defaults of training episodes.
    assert all(0.9 <= change.scale <= 1.2 and 0.5 <= change.gamma <= 1.5 for change in PERTURBATIONS)
    assert all(abs(px) <= 5 for change in PERTURBATIONS for px in change.shift_px)
    assert len(set(PERTURBATIONS)) == len(PERTURBATIONS)


def test_no_copy_is_mirrored():
    ramp = torch.arange(30.0).expand(1, 1, 30, 30)
    for image in (ramp, ramp.transpose(-1, -2)):
        along = -1 if image is ramp else -2
        for change in PERTURBATIONS:
            inner = change.apply(image)[..., 5:-5, 5:-5]
            assert (inner.diff(dim=along) > 0).all()


class _Recorder:
    """Segments a scan as two requests, one of all slices and one of the last; records its input."""

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(images)
        probabilities = torch.sigmoid(images[:, 0])
        yield probabilities
        yield probabilities[-1:]


def test_a_single_copy_is_the_segmentation_itself():
    result = [torch.rand(2, 3, 3), torch.rand(1, 3, 3)]
    averaged = list(average_over_versions(lambda images: result, _images(), 1))
    assert all(actual is expected for actual, expected in zip(averaged, result, strict=True))


def test_a_single_copy_is_segmented_only_when_requested():
    requested = []

    def segment(images):
        for request in range(2):
            requested.append(request)
            yield images[:, 0]

    results = average_over_versions(segment, _images(), 1)
    assert requested == []
    next(results)
    assert requested == [0]


@pytest.mark.parametrize("n_versions", range(1, MAX_VERSIONS + 1))
def test_the_slices_and_the_first_changes_are_segmented_once_each(n_versions):
    images, recorder = _images(), _Recorder()
    before = images.clone()
    list(average_over_versions(recorder, images, n_versions))
    expected = [images, *(change.apply(images) for change in PERTURBATIONS[: n_versions - 1])]
    assert len(recorder.batches) == n_versions
    assert all(torch.equal(a, b) for a, b in zip(recorder.batches, expected, strict=True))
    assert torch.equal(images, before)


@pytest.mark.parametrize("n_versions", [2, MAX_VERSIONS])
def test_a_constant_probability_stays_also_at_the_borders(n_versions):
    [result] = average_over_versions(lambda images: [torch.full((3, 11, 14), 0.7)], _images(), n_versions)
    torch.testing.assert_close(result, torch.full((3, 11, 14), 0.7))


def _read(image, y, x):
    """Interpolate bilinearly at a position; 0 outside."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < len(image) and 0 <= column < len(image[0]):
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(image[row][column])
    return total


def _average_literally(results, size, n_versions):
    """Average the probability maps of one slice; the first is of the slice itself."""
    height, width = size
    mean = torch.zeros(size)
    for y in range(height):
        for x in range(width):
            total, weight = float(results[0][y, x]), 1.0
            for change, result in zip(PERTURBATIONS[: n_versions - 1], results[1:], strict=True):
                # Where the slice's pixel came to lie in the copy.
                moved_y = change.scale * (y - (height - 1) / 2) + (height - 1) / 2 + change.shift_px[0]
                moved_x = change.scale * (x - (width - 1) / 2) + (width - 1) / 2 + change.shift_px[1]
                total += _read(result, moved_y, moved_x)
                weight += _read(torch.ones(size), moved_y, moved_x)
            mean[y, x] = total / weight
    return mean


@pytest.mark.parametrize("n_versions", [2, 3, MAX_VERSIONS])
def test_the_mean_is_that_of_plain_loops(n_versions):
    images = _images()
    averaged, last = average_over_versions(_Recorder(), images, n_versions)
    assert averaged.shape == (3, 11, 14)
    results = [torch.sigmoid(images)]
    results += [torch.sigmoid(change.apply(images)) for change in PERTURBATIONS[: n_versions - 1]]
    for index in range(3):
        expected = _average_literally([result[index, 0] for result in results], (11, 14), n_versions)
        torch.testing.assert_close(averaged[index], expected, atol=1e-5, rtol=0)
    assert torch.equal(last, averaged[-1:])
    assert (averaged - results[0][:, 0]).abs().max() > 0.01


@pytest.mark.parametrize("n_versions", [1, 3])
def test_each_version_is_passed_on_where_its_pixels_were(n_versions):
    versions = {}
    averaged = list(
        average_over_versions(
            _Recorder(), _images(), n_versions, on_version=lambda i, p: versions.setdefault(i, []).append(p)
        )
    )
    if n_versions == 1:
        assert versions == {}
        return
    assert {index: len(maps) for index, maps in versions.items()} == {0: 3, 1: 3}
    inner = (slice(None), slice(4, 7), slice(5, 9))  # which all versions show
    for index, mean in enumerate(averaged):
        torch.testing.assert_close(torch.stack(versions[index]).mean(dim=0)[inner], mean[inner])


def test_the_same_images_give_the_same_mean_and_each_slice_its_own():
    images = _images()
    first, _ = average_over_versions(_Recorder(), images, MAX_VERSIONS)
    again, _ = average_over_versions(_Recorder(), images, MAX_VERSIONS)
    assert torch.equal(first, again)
    alone, _ = average_over_versions(_Recorder(), images[1:2], MAX_VERSIONS)
    torch.testing.assert_close(alone, first[1:2])


@pytest.mark.parametrize("n_versions", [0, MAX_VERSIONS + 1])
def test_more_copies_than_there_are_are_refused(n_versions):
    with pytest.raises(ValueError, match=f"n_versions must be 1 to 5, got {n_versions}"):
        list(average_over_versions(_Recorder(), _images(), n_versions))
