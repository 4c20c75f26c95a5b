"""The contact sheet shows each scan the right way round, with its labels where they are."""

import cv2
import matplotlib
import numpy as np
import pytest

from data.contact_sheet import draw_contact_sheet
from data.contact_tiles import SUPERVOXEL_COLOUR, draw_tile
from data.datasets import find_spec
from data.layout import DatasetLayout
from data.prepared_files import PreparedFiles
from util.errors import UserError
from util.io.grids import find_reorientation, reorient_grid, reorient_volume
from util.io.image_io import Geometry, write_volume
from util.io.slice_pictures import rgb

# Columns run to the patient's left, rows to the back, slices to the head; pixels twice as high as wide.
SHAPE = (5, 20, 40)
GEOMETRY = Geometry(SHAPE, (7.7, 2.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
COLOURS = {1: "#ff0000", 2: "#00ff00"}


def make_files(*, with_labels=True, with_supervoxels=False):
    """A scan with label 1 in front at the patient's right, 2 at the left, on slices 1 and 3."""
    label_map = np.zeros(SHAPE, np.int32)
    label_map[3, 2:8, 4:14] = 1
    label_map[1, 10:16, 30:36] = 2
    label_map[2] = label_map[3] + label_map[1]
    supervoxels = np.ones(SHAPE, np.int32)
    supervoxels[:, :, 20:] = 2
    image = np.zeros(SHAPE, np.float32)
    return PreparedFiles(
        image, GEOMETRY, label_map if with_labels else None, supervoxels if with_supervoxels else None
    )


def turned(files, letters):
    turn = find_reorientation(files.geometry, letters)
    volumes = (files.image, files.label_map, files.supervoxels)
    image, label_map, supervoxels = (None if v is None else reorient_volume(v, turn) for v in volumes)
    return PreparedFiles(image, reorient_grid(files.geometry, turn), label_map, supervoxels)


def pixels(tile, colour):
    return np.argwhere(np.abs(tile.picture - rgb(colour)).max(-1) < 1e-6)


def test_a_tile_shows_the_middle_labelled_slice_in_true_proportions():
    tile = draw_tile(make_files(), "7", colours=COLOURS, tile_px=160)
    assert tile.picture.shape == (160, 160, 3)  # 20 rows of 2 mm, 40 columns of 1 mm
    assert tile.caption == "7, slice 3 of 5, LPS"
    assert tile.marks == ("R", "L", "A", "P")
    # Label 1 covers rows 2 to 7, columns 4 to 13: pixels 16 to 63 and 16 to 55; the rim is two wide.
    red = pixels(tile, "#ff0000")
    assert (red.min(0).tolist(), red.max(0).tolist()) == ([16, 16], [63, 55])
    assert len(red) == 48 * 40 - 44 * 36
    green = pixels(tile, "#00ff00")
    assert (green.min(0).tolist(), green.max(0).tolist()) == ([80, 120], [127, 143])


@pytest.mark.parametrize("letters", ["LAS", "RPI", "PLS", "RAI", "ALI"])
def test_a_tile_is_the_same_however_the_slices_lie_in_the_file(letters):
    expected = draw_tile(make_files(with_supervoxels=True), "7", colours=COLOURS, tile_px=160)
    tile = draw_tile(turned(make_files(with_supervoxels=True), letters), "7", colours=COLOURS, tile_px=160)
    assert np.array_equal(tile.picture, expected.picture)
    assert tile.marks == expected.marks
    assert tile.caption == f"7, slice 3 of 5, {letters}"


@pytest.mark.parametrize(("letters", "marks"), [("LSP", ("R", "L", "S", "I")), ("PSR", ("A", "P", "S", "I"))])
def test_coronal_and_sagittal_slices_stand_upright(letters, marks):
    tile = draw_tile(turned(make_files(), letters), "7", colours=COLOURS, tile_px=77)
    assert tile.marks == marks
    # 5 slices of 7.7 mm high and 40 mm wide: both views.
    assert tile.picture.shape[:2] == (74, 77)


def test_a_label_at_the_wrong_side_shows_at_the_wrong_side():
    files = make_files()
    mirrored = PreparedFiles(files.image, GEOMETRY, files.label_map[:, :, ::-1], None)
    assert pixels(draw_tile(mirrored, "7", colours=COLOURS, tile_px=160), "#ff0000")[:, 1].min() > 80


def test_supervoxels_are_outlined_more_faintly_than_labels():
    tile = draw_tile(make_files(with_supervoxels=True), "7", colours=COLOURS, tile_px=160)
    faint = np.argwhere((tile.picture > 0).all(-1))
    assert np.unique(faint[:, 1]).tolist() == [79]  # the border between columns 19 and 20
    assert (tile.picture[0, 79] < rgb(SUPERVOXEL_COLOUR)).all()
    assert tile.has_supervoxels


def test_a_scan_without_labels_shows_its_middle_slice():
    files = make_files(with_labels=False)
    files.image[2, 4, 10] = 1.0
    tile = draw_tile(files, "7", colours=COLOURS, tile_px=160)
    assert tile.caption == "7, slice 3 of 5, LPS, no labels"
    assert tile.picture.max() > 0.5
    assert not tile.has_supervoxels


def write_dataset(folder, n_scans):
    layout = DatasetLayout(find_spec("CHAOST2"), folder, folder, 5000)
    files = make_files(with_supervoxels=True)
    rng = np.random.default_rng(0)
    for scan_id in range(n_scans):
        write_volume(layout.image_path(scan_id), rng.normal(size=SHAPE).astype(np.float32), GEOMETRY)
        if scan_id != 1:
            write_volume(layout.label_path(scan_id), files.label_map, GEOMETRY)
        if scan_id != 2:
            write_volume(layout.supervoxel_path(scan_id), files.supervoxels, GEOMETRY)
    return layout


@pytest.mark.parametrize(("n_scans", "n_columns"), [(1, 3), (5, 3), (20, 5)])
def test_a_sheet_has_a_tile_for_each_scan(tmp_path, n_scans, n_columns):
    layout = write_dataset(tmp_path, n_scans)
    draw_contact_sheet(layout, tmp_path / "made" / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "made" / "sheet.png"))
    assert sheet.shape[1] == n_columns * 330 - 10 + 28
    # The liver's colour: in the legend, and in each tile of a scan with labels.
    result = np.abs(sheet - np.array([0x4A, 0x4A, 0xFF])).max(-1) <= 2
    header = 2 * 14 + 2 * 26
    assert result[:header].sum() > 100
    tiles = [
        result[header + row * 350 :][:320, 14 + column * 330 :][:, :320].any()
        for row, column in (divmod(i, n_columns) for i in range(n_scans))
    ]
    assert tiles == [i != 1 for i in range(n_scans)]
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["sheet.png"]


def test_a_sheet_is_the_same_again_and_leaves_matplotlib_alone(tmp_path):
    layout = write_dataset(tmp_path, 2)
    (tmp_path / "cases.json").write_text(
        '{"dataset": "CHAOST2", "scans": {"0": "Fall $\\\\x$ ä", "1": "1"}}', encoding="utf-8"
    )
    backend = matplotlib.get_backend(auto_select=False)
    draw_contact_sheet(layout, tmp_path / "a.png", n_workers=1)
    draw_contact_sheet(layout, tmp_path / "b.png", n_workers=2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert matplotlib.get_backend(auto_select=False) == backend


def test_a_damaged_scan_is_named_and_leaves_no_sheet(tmp_path):
    layout = write_dataset(tmp_path, 2)
    layout.image_path(1).write_bytes(b"")
    with pytest.raises(UserError, match=r"image_1\.nii\.gz: cannot be read"):
        draw_contact_sheet(layout, tmp_path / "sheet.png")
    assert not list(tmp_path.glob("*sheet*"))
