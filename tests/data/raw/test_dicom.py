"""Slices of a DICOM series are ordered and checked by their places."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.raw.dicom import SliceHeader, read_header, read_series, series_problems, sort_slices
from tests.data.raw.raw_sets import write_slice

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
FOLDER = Path("scan")


def _headers(heights, orientation=AXIAL):
    return [
        SliceHeader(FOLDER / f"{at}.dcm", "1.2", (4, 5), (2.0, 2.0), (0.0, 0.0, height), orientation)
        for at, height in enumerate(heights)
    ]


def test_a_header_holds_what_was_written(tmp_path):
    path = tmp_path / "a.dcm"
    orientation = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    write_slice(
        path,
        np.ones((6, 9)),
        position_mm=(1.25, -2.5, 3.0),
        orientation=orientation,
        spacing_mm=(8, 1.5, 1.25),
        series="1.2.3",
    )
    assert read_header(path) == SliceHeader(
        path, "1.2.3", (6, 9), (1.5, 1.25), (1.25, -2.5, 3.0), orientation, "MR"
    )
    np.testing.assert_allclose(read_header(path).normal, (-1, 0, 0))


def test_slices_are_sorted_along_their_normal():
    heights = (16.0, 0.0, 8.0)
    assert [header.path.stem for header in sort_slices(_headers(heights))] == ["1", "2", "0"]
    downwards = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    assert [header.path.stem for header in sort_slices(_headers(heights, downwards))] == ["0", "2", "1"]


@pytest.mark.parametrize("heights", [(0, 8), (0, 8.01, 15.99, 24.0), (100.0, 92.3, 84.6, 76.9)])
def test_even_distances_are_fine_within_rounding(heights):
    assert series_problems(_headers(heights), FOLDER) == []


@pytest.mark.parametrize(
    ("heights", "files", "message", "hint"),
    [
        (
            (0, 8, 16, 32, 40),
            "2.dcm and 3.dcm",
            "8.00 mm apart as most are, got 16.00 mm",
            "restore the slices",
        ),
        ((40, 32, 16, 8, 0), "2.dcm and 1.dcm", "got 16.00 mm", "restore the slices"),
        ((0, 8, 24, 32, 48), "1.dcm and 2.dcm", "got 16.00 mm (and 1 more such gaps)", "restore"),
        ((0, 8, 16.3, 24, 32), "1.dcm and 2.dcm", "got 8.30 mm (and 1 more such gaps)", "evenly"),
        ((0, 8, 16, 16, 24), "2.dcm and 3.dcm", "differ in position, got the same", "keep one of them"),
        ((0, 5, 15), "1.dcm and 2.dcm", "5.00 mm apart as most are, got 10.00 mm", "restore the slices"),
        ((3, 3, 3), "0.dcm and 1.dcm", "got the same", "keep one of them"),
    ],
)
def test_a_gap_is_reported_with_the_files_around_it(heights, files, message, hint):
    (line,) = series_problems(_headers(heights), FOLDER)
    assert files in line
    assert message in line
    assert hint in line.split(";")[1]


def test_the_slices_that_differ_from_most_are_reported():
    headers = _headers((0, 8, 16, 24))
    headers[2] = replace(headers[2], size_px=(4, 6))
    (line,) = series_problems(headers, FOLDER)
    assert line.startswith(
        f"{FOLDER}/2.dcm: all slices must have the same size, (4, 5) for most, got (4, 6);"
    )
    headers[3] = replace(headers[3], size_px=(4, 7))
    assert "(and 1 more such files)" in series_problems(headers, FOLDER)[0]


def test_cosines_that_differ_by_rounding_are_one_orientation():
    headers = _headers((0, 8, 16))
    headers[1] = replace(headers[1], orientation=(1.0, -1e-5, 0.0, 1e-5, 1.0, -0.0))
    assert series_problems(headers, FOLDER) == []


def test_every_file_is_rescaled_by_its_own_slope(tmp_path):
    pixels = np.arange(20).reshape(4, 5)
    slope = b"\x28\x00\x53\x10\x02\x00\x00\x00"  # tag (0028,1053) and the length of its text
    for at, text in enumerate((b"1 ", b"3 ", b".5")):
        path = tmp_path / f"{at}.dcm"
        write_slice(
            path,
            pixels,
            position_mm=(0, 0, 8 * at),
            orientation=AXIAL,
            spacing_mm=(8, 2, 2),
            tags=[("0028|1052", "0"), ("0028|1053", "1")],
        )
        content = path.read_bytes()
        assert content.count(slope + b"1 ") == 1
        path.write_bytes(content.replace(slope + b"1 ", slope + text))
    image, geometry = read_series([read_header(path) for path in sorted(tmp_path.iterdir())])
    np.testing.assert_array_equal(image, np.stack([pixels, 3 * pixels, 0.5 * pixels]))
    assert geometry.spacing_mm == (8, 2, 2)
