"""CHAOS scans: geometry orders the slices, stems pair the files, ranges name the organs."""

import numpy as np
import pytest
import SimpleITK as sitk

from data.datasets import DATASETS
from data.raw.finding import find_raw
from tests.data.raw.raw_sets import MARK, write_chaos, write_chaos_case, write_png
from util.errors import UserError

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.fixture(scope="module", name="train_set")
def _train_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    return write_chaos(folder), find_raw("CHAOST2", folder)


def test_scans_are_numbered_by_their_case_folders(train_set):
    _, result = train_set
    assert [scan.scan_id for scan in result.scans] == [1, 2, 3, 5, 8]
    named = DATASETS["CHAOST2"]
    assert (result.spec, result.preparation) == (named.spec, named.preparation)
    assert result.problems == result.remarks == ()


@pytest.mark.parametrize("position", range(5))
def test_voxels_and_places_are_those_that_were_written(train_set, position):
    written, result = train_set
    volume = result.read(result.scans[position])
    np.testing.assert_array_equal(volume.image, written[position].image)
    np.testing.assert_array_equal(volume.label_map, written[position].label_map)
    assert volume.image.dtype == np.float32
    assert volume.label_map.dtype == np.uint8
    assert volume.geometry.same_grid(written[position].geometry, tolerance_mm=1e-4)


def _tag_numbers(path, tag):
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return np.array([float(part) for part in reader.GetMetaData(tag).split("\\")])


@pytest.mark.parametrize("position", range(5))
def test_the_marked_voxel_lies_where_its_files_tags_say(train_set, position):
    _, result = train_set
    volume = result.read(result.scans[position])
    # By the standard's equation (C.7.6.2.1-1), from one file alone.
    expected = []
    for path in result.scans[position].image_files:
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
        for row, column in np.argwhere(pixels == MARK):
            along_row, along_column = _tag_numbers(path, "0020|0037").reshape(2, 3)
            row_step, column_step = _tag_numbers(path, "0028|0030")
            workspace = _tag_numbers(path, "0020|0032")
            expected.append(workspace + column * column_step * along_row + row * row_step * along_column)
    ((slice_idx, row, column),) = np.argwhere(volume.image == MARK)
    geometry = volume.geometry
    steps = np.array(geometry.spacing_mm[::-1]) * [column, row, slice_idx]
    position_mm = np.array(geometry.origin_mm) + np.reshape(geometry.direction, (3, 3)) @ steps
    np.testing.assert_allclose(position_mm, expected[0], atol=1e-3)
    assert len(expected) == 1


def test_slices_follow_their_normal_however_files_are_named(train_set):
    written, result = train_set
    stems = [[path.stem for path in scan.image_files] for scan in result.scans]
    in_space = [[path.stem for path in scan.image_files] for scan in written]
    assert stems[0] == in_space[0][::-1]  # names against the slices' order
    assert stems[1] not in (in_space[1], in_space[1][::-1])  # names in no order
    for scan in result.scans:
        axes = np.reshape(result.read(scan).geometry.direction, (3, 3))
        assert np.linalg.det(axes) == pytest.approx(1)  # right-handed: slices run along the normal


def test_rows_are_the_dicoms_and_oblique_cosines_are_kept(train_set):
    _, result = train_set
    oblique, upwards = (result.read(result.scans[position]).geometry for position in (3, 4))
    np.testing.assert_allclose(
        oblique.direction,
        (np.cos(0.3), 0, -np.sin(0.3), np.sin(0.3), 0, np.cos(0.3), 0, -1, 0),
        atol=1e-6,
    )
    np.testing.assert_allclose(upwards.direction, (1, 0, 0, 0, -1, 0, 0, 0, -1), atol=1e-6)


def test_a_missing_organ_shifts_no_other(train_set):
    _, result = train_set
    assert np.unique(result.read(result.scans[2]).label_map).tolist() == [0, 1, 3, 4]


def test_grey_levels_are_ranges_with_both_ends(tmp_path):
    written = write_chaos_case(tmp_path / "MR" / "4", labels=(1, 2, 3, 4))
    levels = np.zeros((36, 44), np.uint8)
    levels[0, :8] = (55, 70, 110, 135, 175, 200, 240, 255)
    write_png(written.label_files[3], levels)
    result = find_raw("CHAOST2", tmp_path)
    assert result.read(result.scans[0]).label_map[3, 0, :9].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 0]
    levels[0, :8] = (54, 71, 109, 136, 174, 201, 239, 1)
    write_png(written.label_files[3], levels)
    with pytest.raises(UserError, match=r"got 1, 54, 71, 109, 136 and 3 more; correct"):
        result.read(result.scans[0])


def test_macs_hidden_files_and_other_sequences_are_passed_over(train_set, tmp_path):
    written = write_chaos_case(tmp_path / "MR" / "4", labels=(1,))
    first = written.image_files[0]
    first.with_name(f"._{first.name}").write_bytes(b"Mac OS X")
    (tmp_path / "__MACOSX" / "4" / "T2SPIR" / "Ground").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "4" / "T2SPIR" / "Ground" / "a.png").write_bytes(b"x")
    result = find_raw("CHAOST2", tmp_path)
    assert len(result.scans) == 1
    assert result.problems == ()
    assert result.read(result.scans[0]).image.shape == (6, 36, 44)
    assert all("T1DUAL" not in str(path) for scan in train_set[1].scans for path in scan.image_files)


def test_cases_of_the_test_part_are_left_out_and_named(tmp_path):
    write_chaos_case(tmp_path / "Train_Sets" / "MR" / "1", labels=(1,))
    unlabelled = write_chaos_case(tmp_path / "Test_Sets" / "MR" / "3", labels=(1,))
    for path in unlabelled.label_files:
        path.unlink()
    result = find_raw("CHAOST2", tmp_path)
    assert [scan.scan_id for scan in result.scans] == [1]
    assert result.problems == ()
    assert any("left out" in remark and "Test_Sets/MR/3" in remark for remark in result.remarks)


def test_too_few_scans_for_the_folds_are_remarked_and_no_problem(tmp_path):
    write_chaos(tmp_path, n_scans=2)
    result = find_raw("CHAOST2", tmp_path)
    assert result.problems == ()
    assert result.remarks[0].startswith(
        "2 scan(s) with labels can be prepared, but evaluation's 5 folds need"
    )
