import importlib
import itertools
import math
import sys

import numpy as np
import pytest
from scipy import ndimage

import data.supervoxels
from data.supervoxels import felzenszwalb_3d_cy as kernel
from data.supervoxels.segmentation import (
    DIRECTIONS,
    find_body,
    make_supervoxels,
    scale_intensities,
    segment_supervoxels,
    weight_factors,
)
from util.errors import UserError

CUBIC_MM = (1.0, 1.0, 1.0)


def segment(voxels, *, spacing_mm=CUBIC_MM, min_size_vox=1, scale=1.0):
    volume = np.array(voxels, dtype=np.float32)
    return segment_supervoxels(volume, spacing_mm, min_size_vox=min_size_vox, scale=scale)


# Answers by hand


@pytest.mark.parametrize(
    ("scale", "min_size_vox", "expected"),
    [
        (255, 1, [0, 1, 2, 3, 4]),  # k = 1: a weight of 1 is not below the single voxels' 0 + 1/1
        (510, 1, [0, 0, 1, 1, 2]),  # k = 2: 1 < 2 joins both pairs; 9 and 19 are above 1 + 2/2
        (510, 2, [0, 0, 1, 1, 1]),  # then 9 joins two large ones, not allowed; 19 has a small end
        (510, 3, [0, 0, 0, 0, 0]),  # then 9 joins two small ones, and 19 the last voxel
    ],
)
def test_a_row_of_five_voxels_is_cut_as_by_hand(scale, min_size_vox, expected):
    labels = segment([[[0, 1, 10, 11, 30]]], scale=scale, min_size_vox=min_size_vox)
    assert labels.tolist() == [[expected]]
    assert labels.dtype == np.int32


def test_a_grown_segment_tolerates_its_largest_weight_and_its_share_of_k():
    # k = 4. 0-3 joins (3 < 4): I = 3, tolerance 3 + 4/2 = 5. 7-7.5 joined before that: 0.5 + 4/2 = 2.5.
    # The weight of 4 between 3 and 7 is below 5 but not below 2.5.
    assert segment([[[0, 3, 7, 7.5]]], scale=1020).tolist() == [[[0, 0, 1, 1]]]
    # 3-6 (weight 3, single voxel at 6 tolerates 4) joins too.
    assert segment([[[0, 3, 6]]], scale=1020).tolist() == [[[0, 0, 0]]]


def test_a_small_segment_may_join_a_large_one_before_its_other_side_makes_it_large():
    # 2-3 joins, and 0-2 while 2-3 is still small; only then comes 6. With 6 first, 2-3-6 would be large.
    assert segment([[[0, 0, 0, 2, 3, 6]]], min_size_vox=3).tolist() == [[[0, 0, 0, 0, 0, 0]]]
    # Here 6 is nearer: 4-5-6 is large before the scan comes to 0-2.
    assert segment([[[0, 0, 0, 4, 5, 6]]], min_size_vox=3).tolist() == [[[0, 0, 0, 1, 1, 1]]]


def test_the_largest_weight_that_a_segment_can_tolerate_is_twice_that_of_a_voxel():
    # k = 8: pairs join below 8, two pairs below 7 + 8/2 = 11, two fours below 10 + 8/4 = 12, still below 16.
    row = [0, 7, 17, 24, 35.5, 42.5, 52.5, 59.5]
    assert segment([[row]], scale=255 * 8).tolist() == [[[0] * 8]]
    row[4:] = [workspace + 1 for workspace in row[4:]]
    assert segment([[row]], scale=255 * 8).tolist() == [[[0] * 4 + [1] * 4]]


def test_equal_weights_go_by_raster_order():
    assert segment([[[0, 0, 5, 10, 10]]], min_size_vox=2).tolist() == [[[0, 0, 0, 1, 1]]]


def test_equal_weights_go_by_direction_before_raster_order():
    # The 5 may join along x (edge from a later voxel) or along y (from an earlier one); x comes first.
    labels = segment([[[-100, -100, 10], [-100, -100, 10], [0, 0, 5]]], min_size_vox=2)
    assert labels.tolist() == [[[0, 0, 1], [0, 0, 1], [2, 2, 2]]]


@pytest.mark.parametrize(("slice_mm", "joins_in_plane"), [(2.0, True), (1.0, False)])
def test_a_step_along_z_weighs_more_between_distant_slices(slice_mm, joins_in_plane):
    column = [[[0, 0, 5]], [[-1000, -1000, 8]], [[-1000, -1000, 8]]]  # 5 in plane or 3 along z
    labels = segment(column, spacing_mm=(slice_mm, 1.0, 1.0), min_size_vox=2)
    assert (labels[0, 0, 2] == labels[0, 0, 1]) == joins_in_plane
    assert (labels[0, 0, 2] == labels[1, 0, 2]) != joins_in_plane


def test_factors_are_the_step_lengths_relative_to_a_cubic_grid():
    factors = dict(zip(DIRECTIONS, weight_factors((6.0, 2.0, 2.0)), strict=True))  # s = 3
    assert factors.pop((1, 0, 0)) == 3
    for (dz, dy, dx), factor in factors.items():
        expected = 1 if dz == 0 else math.sqrt(10 / 2) if dy == 0 or dx == 0 else math.sqrt(11 / 3)
        assert factor == np.float32(expected)
        assert factor.dtype == np.float32


def test_directions_are_half_of_the_26_neighbours_each_forward_in_raster_order():
    everywhere = set(itertools.product((-1, 0, 1), repeat=3)) - {(0, 0, 0)}
    opposite = {(-dz, -dy, -dx) for dz, dy, dx in DIRECTIONS}
    assert set(DIRECTIONS) | opposite == everywhere
    assert len(DIRECTIONS) == 13
    assert all(step > (0, 0, 0) for step in DIRECTIONS)


def test_scaling_maps_the_range_to_0_to_255():
    scaled = scale_intensities(np.array([[[-100, 0, 100]]], dtype=np.int16))
    assert scaled.tolist() == [[[0, 127.5, 255]]]
    assert scaled.dtype == np.float32


def test_scaling_is_rounded_once_from_float64():
    volume = np.random.default_rng(0).normal(1e4, 1.0, (3, 4, 5)).astype(np.float32)
    exact = volume.astype(np.float64)
    expected = (255 * (exact - exact.min()) / (exact.max() - exact.min())).astype(np.float32)
    np.testing.assert_array_equal(scale_intensities(volume), expected)


def test_the_body_is_the_largest_8_connected_region_with_its_holes_filled():
    picture = """
        ....#.##
        ####..##
        #..#....
        #.#.....
        ###....#
    """
    expected = """
        ....#...
        ####....
        ####....
        ###.....
        ###.....
    """
    # The ring at the left closes over a diagonal, and touches the voxel above it over another.
    np.testing.assert_array_equal(find_body(100 * drawn(picture)), drawn(expected).astype(bool))


def test_of_equally_large_regions_the_first_in_raster_order_is_the_body():
    np.testing.assert_array_equal(find_body(100 * drawn("...#\n##.#\n....")), drawn("...#\n...#\n....") > 0)
    np.testing.assert_array_equal(find_body(100 * drawn(".#.#\n.#.#\n....")), drawn(".#..\n.#..\n....") > 0)


def test_the_body_is_above_10_and_absent_where_nothing_is():
    scaled = np.array([[[10, 10.5, 0]], [[10, 9, 0]]], dtype=np.float32)
    assert find_body(scaled).tolist() == [[[False, True, False]], [[False, False, False]]]


def drawn(picture: str) -> np.ndarray:
    return np.array([[[char == "#" for char in line.strip()] for line in picture.split()]], dtype=np.float32)


def test_supervoxels_are_numbered_from_1_inside_the_body_alone():
    # Scaled: 0 and 5 are air, 100 and 255 the body. Air is a segment (id 1 before masking) and vanishes.
    volume = np.array([[[0, 0, 100, 100, 255, 255, 5]]])
    labels = make_supervoxels(volume, CUBIC_MM, min_size_vox=1)
    assert labels.tolist() == [[[0, 0, 1, 1, 2, 2, 0]]]
    assert labels.dtype == np.int32


# Properties


def blobs(shape=(6, 20, 22), *, seed=1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.round(40 * np.maximum(ndimage.gaussian_filter(noise, (0.5, 2, 2)) * 8, -1))


def test_every_segment_is_connected_large_enough_and_numbered_by_appearance():
    labels = segment(blobs(), spacing_mm=(4.0, 1.5, 1.5), min_size_vox=30)
    n_segments = labels.max() + 1
    assert n_segments > 3
    assert np.bincount(labels.ravel()).min() >= 30
    for segment_id in range(n_segments):
        _, n_pieces = ndimage.label(labels == segment_id, structure=np.ones((3, 3, 3)))
        assert n_pieces == 1
    _, first_place = np.unique(labels, return_index=True)
    assert (np.diff(first_place) > 0).all()


def test_masked_supervoxels_are_dense_and_zero_exactly_outside_the_body():
    volume = blobs()
    labels = make_supervoxels(volume, (4.0, 1.5, 1.5), min_size_vox=30)
    np.testing.assert_array_equal(labels > 0, find_body(scale_intensities(volume)))
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert labels.max() > 3
    assert (labels == 0).any()


def test_masking_cuts_segments_and_changes_no_other_border():
    volume = blobs()
    whole = segment(scale_intensities(volume), min_size_vox=30)
    masked = make_supervoxels(volume, CUBIC_MM, min_size_vox=30)
    pairs = np.unique(np.stack([whole[masked > 0], masked[masked > 0]]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_a_volume_below_the_minimum_size_is_one_segment():
    assert segment(blobs((2, 4, 4)), min_size_vox=10_000).max() == 0
    assert segment([[[7.0]]], min_size_vox=10**12).tolist() == [[[0]]]


def test_a_constant_volume_is_one_segment():
    assert segment(np.full((2, 3, 4), 7)).max() == 0


def test_the_input_is_neither_changed_nor_needed_contiguous():
    volume = blobs()
    expected = segment(volume, min_size_vox=30)
    backwards = np.array(volume[::-1, :, ::-1])[::-1, :, ::-1]
    for same in (np.asfortranarray(volume), backwards, volume.astype(">f8"), volume.astype(np.int16)):
        before = same.copy()
        same.flags.writeable = False
        again = segment_supervoxels(same, CUBIC_MM, min_size_vox=30)
        np.testing.assert_array_equal(again, expected)
        np.testing.assert_array_equal(same, before)


def test_the_in_plane_distances_may_differ_by_a_rounding_error_and_count_as_their_mean():
    np.testing.assert_array_equal(weight_factors((5.0, 0.995, 1.005)), weight_factors((5.0, 1.0, 1.0)))


# A plain reading of the definition


def plain_factor(step, spacing_mm):
    ratio = spacing_mm[0] / spacing_mm[1]
    if step[0] == 0:
        return np.float32(1)
    in_plane = abs(step[1]) + abs(step[2])
    return np.float32([ratio, math.sqrt((1 + ratio**2) / 2), math.sqrt((2 + ratio**2) / 3)][in_plane])


def plain_segments(volume, spacing_mm, *, min_size_vox, scale):
    edges = []
    for step in DIRECTIONS:
        for workspace in np.ndindex(volume.shape):
            other = tuple(np.add(workspace, step))
            if all(0 <= index < size for index, size in zip(other, volume.shape, strict=True)):
                weight = abs(volume[workspace] - volume[other]) * plain_factor(step, spacing_mm)
                edges.append((float(weight), workspace, other))
    edges.sort(key=lambda edge: edge[0])
    members = {workspace: [workspace] for workspace in np.ndindex(volume.shape)}
    largest = {id(segment): 0.0 for segment in members.values()}
    k = scale / 255

    def join(a, b, weight):
        a.extend(b)
        largest[id(a)] = weight
        for workspace in b:
            members[workspace] = a

    for weight, workspace, other in edges:
        a, b = members[workspace], members[other]
        if a is not b and weight < min(largest[id(a)] + k / len(a), largest[id(b)] + k / len(b)):
            join(a, b, weight)
    for weight, workspace, other in edges:
        a, b = members[workspace], members[other]
        if a is not b and min(len(a), len(b)) < min_size_vox:
            join(a, b, weight)
    ids = {}
    return np.array([ids.setdefault(id(members[p]), len(ids)) for p in np.ndindex(volume.shape)]).reshape(
        volume.shape
    )


CASES = [
    # shape, number of grey levels (0: all different), slice distance, min_size_vox, scale
    ((1, 1, 1), 0, 1.0, 1, 1.0),
    ((1, 1, 9), 3, 1.0, 2, 1.0),
    ((1, 7, 1), 3, 1.0, 2, 1.0),
    ((7, 1, 1), 3, 2.0, 2, 1.0),
    ((1, 9, 7), 0, 3.0, 4, 3e3),
    ((1, 8, 11), 3, 3.0, 3, 1.0),
    ((5, 7, 6), 0, 6.16, 8, 2e4),
    ((5, 7, 6), 4, 6.16, 8, 1.0),
    ((4, 6, 9), 6, 0.4, 5, 1e4),
    ((6, 5, 5), 2, 1.0, 3, 1.0),
    ((2, 9, 9), 40, 4.0, 6, 1.0),
    ((3, 8, 8), 0, 4.0, 1, 6e4),
    ((3, 5, 60), 7, 2.0, 60, 1.0),
    ((2, 4, 90), 30, 1.0, 90, 1.0),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_segments_are_those_of_a_plain_reading_of_the_definition(case, seed):
    volume, arguments = drawn_case(case, seed)
    np.testing.assert_array_equal(
        segment_supervoxels(volume, **arguments), plain_segments(volume, **arguments)
    )


@pytest.mark.parametrize("n_levels", [1, 4, 30])
@pytest.mark.parametrize("seed", range(4))
def test_segments_of_specks_on_plain_ground_are_those_of_a_plain_reading(n_levels, seed):
    generator = np.random.default_rng(seed)
    volume = np.repeat([0, 60, 0, 60], 15) * np.ones((3, 6, 60), dtype=int)
    specks = generator.random(volume.shape) < 0.15
    volume[specks] = 30 + generator.integers(n_levels, size=specks.sum())
    arguments = {"spacing_mm": (1.0, 1.0, 1.0), "min_size_vox": 40, "scale": 1.0}
    expected = plain_segments(volume.astype(np.float32), **arguments)
    assert expected.max() > 0
    np.testing.assert_array_equal(segment_supervoxels(volume, **arguments), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("capacity", [1, 3, 50])
def test_the_result_does_not_depend_on_how_many_edges_are_sorted_at_a_time(case, capacity):
    volume, arguments = drawn_case(case, 5)
    labels = kernel.segment(
        volume,
        np.array(DIRECTIONS, dtype=np.int32),
        weight_factors(arguments["spacing_mm"]),
        k=arguments["scale"] / 255,
        min_size=arguments["min_size_vox"],
        capacity=capacity,
    )
    np.testing.assert_array_equal(labels, plain_segments(volume, **arguments))


def drawn_case(case, seed):
    shape, n_levels, slice_mm, min_size_vox, scale = case
    volume = 255 * np.random.default_rng(seed).random(shape)
    if n_levels:
        volume = np.floor(volume / 255 * n_levels) * (255 / n_levels)
    arguments = {"spacing_mm": (slice_mm, 1.0, 1.0), "min_size_vox": min_size_vox, "scale": scale}
    return volume.astype(np.float32), arguments


def test_the_cases_are_not_all_trivial():
    counts = [plain_segments(volume, **rest).max() + 1 for volume, rest in (drawn_case(c, 0) for c in CASES)]
    assert sum(1 < count < math.prod(case[0]) for count, case in zip(counts, CASES, strict=True)) >= 7


def test_infinite_weights_between_extreme_intensities_still_join_small_segments():
    assert segment([[[-3e38, 3e38]]], min_size_vox=2).tolist() == [[[0, 0]]]


# Errors


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_intensities_beyond_float32_are_refused_with_their_slice(bad):
    volume = np.zeros((3, 2, 2))
    volume[1, 0, 1] = bad
    with pytest.raises(UserError, match=r"finite.*slice 1"):
        segment_supervoxels(volume, CUBIC_MM, min_size_vox=1)
    with pytest.raises(UserError, match=r"finite.*slice 1"):
        make_supervoxels(volume, CUBIC_MM, min_size_vox=1)


@pytest.mark.parametrize("shape", [(4, 4), (1, 2, 3, 4), (0, 3, 3)])
def test_other_than_filled_3d_volumes_are_refused(shape):
    with pytest.raises(UserError, match="must be 3D"):
        segment_supervoxels(np.zeros(shape), CUBIC_MM, min_size_vox=1)


def test_complex_volumes_are_refused():
    with pytest.raises(UserError, match="real numbers, got complex128"):
        segment_supervoxels(np.zeros((1, 2, 2), dtype=complex), CUBIC_MM, min_size_vox=1)


def test_volumes_beyond_the_edge_ids_are_refused():
    endless = np.broadcast_to(np.float32(0), (1025, 512, 512))
    with pytest.raises(UserError, match=r"at most 268435456 voxels.*crop"):
        segment_supervoxels(endless, CUBIC_MM, min_size_vox=1)


def test_a_constant_scan_cannot_be_scaled():
    with pytest.raises(UserError, match="must not be constant, got 3 everywhere"):
        make_supervoxels(np.full((2, 3, 3), 3), CUBIC_MM, min_size_vox=1)


@pytest.mark.parametrize("spacing_mm", [(0.0, 1.0, 1.0), (1.0, 1.0), (1.0, math.nan, 1.0), (1.0, -1.0, -1.0)])
def test_impossible_spacings_are_refused(spacing_mm):
    with pytest.raises(UserError, match="three positive distances"):
        segment([[[1, 2]]], spacing_mm=spacing_mm)


def test_pixels_that_are_not_square_are_refused():
    with pytest.raises(UserError, match=r"square within 1 percent, got 1 x 1\.02 mm"):
        segment([[[1, 2]]], spacing_mm=(5.0, 1.0, 1.02))


def test_slices_a_thousand_pixels_apart_are_refused():
    with pytest.raises(UserError, match="slice distance 5000 mm does not fit"):
        segment([[[1, 2]]], spacing_mm=(5000.0, 1.0, 1.0))


@pytest.mark.parametrize("min_size_vox", [0, -5, 2.5, math.inf])
def test_impossible_minimum_sizes_are_refused(min_size_vox):
    with pytest.raises(UserError, match="whole number of at least 1"):
        segment([[[1, 2]]], min_size_vox=min_size_vox)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_impossible_scales_are_refused(scale):
    with pytest.raises(UserError, match="scale: must be positive"):
        segment([[[1, 2]]], scale=scale)


def test_without_the_extension_the_error_names_the_build_command(monkeypatch):
    monkeypatch.delattr(data.supervoxels, "felzenszwalb_3d_cy")
    monkeypatch.setitem(sys.modules, "data.supervoxels.felzenszwalb_3d_cy", None)
    monkeypatch.delitem(sys.modules, "data.supervoxels.segmentation")
    with pytest.raises(UserError, match=r"run 'python data/supervoxels/setup\.py build_ext --inplace'"):
        importlib.import_module("data.supervoxels.segmentation")


def test_an_extension_built_from_older_source_is_refused(monkeypatch):
    monkeypatch.setattr(kernel, "KERNEL_VERSION", 0)
    monkeypatch.delitem(sys.modules, "data.supervoxels.segmentation")
    with pytest.raises(UserError, match="again"):
        importlib.import_module("data.supervoxels.segmentation")
