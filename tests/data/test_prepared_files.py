"""Files of a prepared scan are read as they are, and refused where they do not belong together."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from data.datasets import find_spec
from data.layout import DatasetLayout
from data.prepared_files import map_scans, read_case_names, read_prepared_files
from tests.oriented_scans import lps_grid
from util.errors import UserError
from util.io.grids import find_reorientation, reorient_grid, reorient_volume
from util.io.image_io import Geometry, write_volume

SHAPE = (2, 3, 4)
GEOMETRY = Geometry(SHAPE, (7.7, 1.25, 1.25), (-10.0, 20.0, 5.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


@pytest.fixture(name="layout")
def _layout(tmp_path):
    layout = DatasetLayout(find_spec("CHAOST2"), tmp_path, tmp_path / "supervoxels", 5000)
    write_volume(layout.image_path(7), np.arange(24, dtype=np.int16).reshape(SHAPE), GEOMETRY)
    write_volume(layout.label_path(7), np.full(SHAPE, 2, np.float32), GEOMETRY)
    # Others write supervoxels without a place.
    bare = replace(GEOMETRY, spacing_mm=(1.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 0.0))
    write_volume(layout.supervoxel_path(7), np.full(SHAPE, 3, np.int16), bare)
    return layout


def test_all_three_files_are_read(layout):
    files = read_prepared_files(layout, 7)
    assert files.image.dtype == np.int16
    assert np.array_equal(files.image.ravel(), np.arange(24))
    assert files.geometry.same_grid(GEOMETRY)
    assert (files.label_map.dtype, files.supervoxels.dtype) == (np.uint8, np.int32)
    assert (files.label_map == 2).all()
    assert (files.supervoxels == 3).all()


def test_labels_and_supervoxels_may_be_missing(layout):
    layout.label_path(7).unlink()
    layout.supervoxel_path(7).unlink()
    files = read_prepared_files(layout, 7)
    assert files.label_map is None
    assert files.supervoxels is None


@pytest.mark.parametrize("letters", ["LPS", "RAS", "SLA", "IRP"])
@pytest.mark.parametrize("direction", [GEOMETRY.direction, lps_grid(is_oblique=True).direction])
def test_a_label_map_may_have_its_axes_in_another_order_and_direction(layout, letters, direction):
    geometry = replace(GEOMETRY, direction=direction)
    label_map = (np.arange(24) % 5).astype(np.uint8).reshape(SHAPE)
    write_volume(layout.image_path(7), np.arange(24, dtype=np.int16).reshape(SHAPE), geometry)
    turn = find_reorientation(geometry, letters)
    write_volume(layout.label_path(7), reorient_volume(label_map, turn), reorient_grid(geometry, turn))
    assert np.array_equal(read_prepared_files(layout, 7).label_map, label_map)


@pytest.mark.parametrize(
    ("kind", "volume", "geometry", "message"),
    [
        (
            "label",
            np.zeros((2, 4, 3), np.uint8),
            replace(GEOMETRY, shape=(2, 4, 3)),
            r"label_7\.nii\.gz: label grid \(2, 4, 3\) differs from image grid \(2, 3, 4\); re-run prep",
        ),
        (
            "label",
            np.zeros(SHAPE, np.uint8),
            replace(GEOMETRY, origin_mm=(-10.0, 20.0, 6.0)),
            r"origin .-10\.0, 20\.0, 6\.0., .* differs from image grid .*origin .-10\.0, 20\.0, 5\.0.",
        ),
        (
            "label",
            np.full(SHAPE, 1.5, np.float32),
            GEOMETRY,
            r"label values must be among 0, 1, 2, 3, 4, got 1\.5;",
        ),
        ("label", np.full(SHAPE, 3e9, np.float64), GEOMETRY, r"label values must be .*, got 3e\+09;"),
        ("label", np.full(SHAPE, -1, np.int16), GEOMETRY, "label values must be .*, got -1;"),
        (
            "supervoxel",
            np.zeros((3, 3, 4), np.int32),
            replace(GEOMETRY, shape=(3, 3, 4)),
            r"superpix-MIDDLE_7.*supervoxel grid \(3, 3, 4\) differs from image grid \(2, 3, 4\); delete",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_refused_in_one_line(layout, kind, volume, geometry, message):
    write_volume(getattr(layout, f"{kind}_path")(7), volume, geometry)
    with pytest.raises(UserError, match=message) as caught:
        read_prepared_files(layout, 7)
    assert "\n" not in str(caught.value)


def test_scans_are_mapped_in_the_order_of_their_ids_by_several_threads(layout):
    for scan_id in (10, 2):
        layout.image_path(scan_id).touch()
    rendezvous = threading.Barrier(3, timeout=20)
    assert map_scans(lambda scan_id: (rendezvous.wait(), scan_id)[1], layout, n_workers=3) == [2, 7, 10]


def test_the_first_failure_ends_a_map(layout):
    def fail(scan_id):
        raise UserError(f"scan {scan_id}")

    with pytest.raises(UserError, match="scan 7"):
        map_scans(fail, layout)


def test_names_of_cases_are_read_by_number(layout):
    assert read_case_names(layout) == {}
    (layout.data_dir / "cases.json").write_text('{"dataset": "CHAOST2", "scans": {"7": "a", "12": "b"}}')
    assert read_case_names(layout) == {7: "a", 12: "b"}
