"""Scans in a network's frame: supports, ranges of slices, and which support slice serves a query slice."""

from dataclasses import replace

import numpy as np
import pytest

from data.model_frame import ModelFrame
from data.raw.input_scans import InputScan
from data.registration.spatial_transform import SpatialTransform
from data.transforms import Preparation
from dataloaders.framed_scans import (
    assign_support_slices,
    frame_query,
    frame_support,
    read_supports,
    warp_support,
)
from tests.oriented_scans import ORIENTATIONS, is_bright, l_scan
from util.errors import UserError
from util.remarks import Remark

FRAME = ModelFrame(Preparation(orientation="LPS"), None, "test")
IDENTITY = SpatialTransform((1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0, 0, 0, 0), (0.0, 0.0, 0.0))


def _mask(scan, **changes):
    return InputScan(is_bright(scan).astype(np.uint8), replace(scan.geometry, **changes), "mask")


def _query(letters="LPS", frame=FRAME, **grid):
    return frame_query(frame, l_scan(letters, **grid), image_size_px=None)


def test_a_support_is_the_same_whatever_its_orientation():
    one, other = (
        frame_support(
            FRAME, scan, is_bright(scan).astype(np.uint8), labels=(1, 2), n_part=3, image_size_px=None
        )
        for scan in (l_scan("LPS"), l_scan("SAR"))
    )
    assert np.array_equal(one.label_map, other.label_map)
    assert np.array_equal(one.scan.images, other.scan.images)
    assert list(one.support_slices) == [1]
    assert one.support_slices[1].tolist() == other.support_slices[1].tolist() == [4, 6, 8]  # of slices 3 to 8


def test_a_support_that_the_frame_cuts_off_is_refused():
    scan = l_scan()
    label_map = np.zeros(scan.geometry.shape, np.uint8)
    label_map[:, 0] = 1
    frame = ModelFrame(Preparation(orientation="LPS", size_px=(20, 20)), None, "test")
    with pytest.raises(UserError, match="nothing of an outlined organ is left"):
        frame_support(frame, scan, label_map, labels=(1,), n_part=3, image_size_px=None)


def test_intensities_unlike_the_networks_modality_are_remarked_on_unless_prepared(recwarn):
    scan, frame = l_scan(), replace(FRAME, modality="CT")
    mask = is_bright(scan).astype(np.uint8)
    _query(frame=replace(frame, are_prepared=True))
    assert not recwarn.list
    with pytest.warns(Remark, match="L in LPS: the lowest intensity is"):
        frame_query(frame, scan, image_size_px=None)
    with pytest.warns(Remark, match="L in LPS: the lowest intensity is"):
        frame_support(frame, scan, mask, labels=(1,), n_part=3, image_size_px=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origin_mm": (0.0, 0.0, 0.0)}, "mask: must lie on the grid of L in LPS, origin"),
        ({"direction": (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}, "mask: must lie on the grid of .*, direction"),
        ({"spacing_mm": (5.0, 1.5, 1.6)}, "mask: must lie on the grid of L in LPS, spacing"),
    ],
)
def test_a_mask_on_another_grid_is_refused(change, message):
    scan = l_scan()
    with pytest.raises(UserError, match=message):
        read_supports(scan, _mask(scan, **change), assume_orientation=None)


@pytest.mark.parametrize("letters", ORIENTATIONS)
@pytest.mark.parametrize("is_oblique", [False, True])
def test_a_mask_whose_axes_are_permuted_or_flipped_serves_without_loss(letters, is_oblique):
    scan, turned = (l_scan(order, is_oblique=is_oblique) for order in ("SPR", letters))
    [_], [label_map], _ = read_supports(scan, _mask(turned), assume_orientation=None)
    assert np.array_equal(label_map, is_bright(scan))


def test_every_unusable_support_is_reported():
    scan = l_scan()
    with pytest.raises(UserError) as caught:
        read_supports(["none.nii", scan, scan], [_mask(scan), "no.mha", l_scan()], assume_orientation=None)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["none.nii", "no.mha"]
    with pytest.raises(UserError, match="one mask for each of 2 image"):
        read_supports([scan, scan], [_mask(scan)], assume_orientation=None)


def test_a_range_of_raw_slices_needs_the_prepared_slices_around_it():
    assert _query().slices_covering(3, 7).tolist() == [3, 4, 5, 6]
    assert _query("LPI").slices_covering(3, 7).tolist() == [5, 6, 7, 8]  # of 12, upside down
    assert _query("SLP").slices_covering(3, 7).tolist() == list(range(12))  # raw slices run across
    finer = ModelFrame(Preparation(orientation="LPS", spacing_mm=(2.0, 1.5, 1.5)), None, "test")
    assert _query(frame=finer).slices_covering(2, 4).tolist() == [5, 6, 7, 8]  # 10 to 15 mm in steps of 2


def test_support_slices_are_those_at_the_position_that_registration_finds():
    support, query = _query(), frame_query(FRAME, l_scan(), image_size_px=None)
    support_slices, slices = np.array([2, 8, 10]), np.array([1, 4, 5, 6, 9, 11])
    identity = assign_support_slices(support_slices, support, query, slices=slices, transform=IDENTITY)
    assert identity.parts.tolist() == [0, 0, 0, 1, 1, 2]
    shift_mm = -20.0  # the query shows the body four slices higher
    lower = replace(IDENTITY, affine=(*IDENTITY.affine[:11], shift_mm))
    shifted = assign_support_slices(support_slices, support, query, slices=slices, transform=lower)
    assert shifted.parts.tolist() == [0, 0, 0, 0, 0, 1]
    by_height = assign_support_slices(support_slices, support, query, slices=slices, transform=None)
    assert (by_height.parts.tolist(), by_height.slices.tolist()) == ([0, 0, 0, 1, 1, 2], slices.tolist())


def test_a_failed_registration_is_a_reason_not_an_error():
    scan = l_scan()
    label_map = is_bright(scan).astype(np.uint8)
    support = frame_support(FRAME, scan, label_map, labels=(1,), n_part=3, image_size_px=None)
    short = InputScan(scan.voxels[:3], replace(scan.geometry, shape=(3, 30, 32)), "short")
    warped = warp_support(support, frame_query(FRAME, short, image_size_px=None))
    assert warped.transform is None
    assert warped.masks == {}
    assert "at least 4 voxels per axis" in warped.failure
