"""A dataset's scans are found from any sensible folder."""

import pickle

import pytest

from data.raw.finding import find_raw
from tests.data.raw.raw_sets import (
    WRITERS,
    write_chaos,
    write_custom_nnunet,
    write_custom_numbered,
    write_mscmrseg,
    write_synapse,
)
from util.errors import UserError


@pytest.mark.parametrize(
    ("dataset", "inner"),
    [
        ("CHAOST2", ""),
        ("CHAOST2", "Train_Sets"),
        ("CHAOST2", "Train_Sets/MR"),
        ("SABS", "RawData/Training"),
        ("SABS", "RawData/Training/img"),
        ("SABS", "RawData/Training/label"),
        ("CMR", ""),
        ("Hips", ""),
        ("Hips", "imagesTr"),
        ("Hips", "dataset.json"),
    ],
)
def test_scans_are_found_above_and_inside_of_their_form(tmp_path, dataset, inner):
    written = WRITERS[dataset](tmp_path / "top", n_scans=2)
    result = find_raw(dataset, tmp_path / "top" / inner)
    assert [scan.scan_id for scan in result.scans] == [scan.scan_id for scan in written]
    assert all(path.is_absolute() for scan in result.scans for path in scan.image_files)


def test_the_folder_of_a_single_case_is_accepted(tmp_path):
    write_chaos(tmp_path, n_scans=2)
    for inner in ("2", "2/T2SPIR", "2/T2SPIR/DICOM_anon"):
        assert [
            scan.scan_id for scan in find_raw("CHAOST2", tmp_path / "Train_Sets" / "MR" / inner).scans
        ] == [2]


def test_custom_datasets_may_lie_below_as_in_an_archives_top_folder(tmp_path):
    write_custom_nnunet(tmp_path / "top" / "Hips", n_scans=2)
    assert len(find_raw("Hips", tmp_path).scans) == 2


@pytest.mark.parametrize("dataset", WRITERS)
def test_a_dataset_travels_to_other_processes(tmp_path, dataset):
    WRITERS[dataset](tmp_path, n_scans=2)
    result = find_raw(dataset, tmp_path)
    again = pickle.loads(pickle.dumps(result))
    assert again.scans == result.scans
    assert (again.read(again.scans[1]).label_map == result.read(result.scans[1]).label_map).all()


@pytest.mark.parametrize("dataset", ["CHAOST2", "SABS", "CMR", "Hips"])
def test_a_folder_of_something_else_is_refused_with_what_is_looked_for(tmp_path, dataset):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=rf"{tmp_path}: .*must (hold|come with)"):
        find_raw(dataset, tmp_path)


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone: must be a folder .* got nothing"):
        find_raw("SABS", tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="got a file"):
        find_raw("SABS", tmp_path / "file")


def test_the_phantom_has_no_raw_scans(tmp_path):
    with pytest.raises(UserError, match="dataset=PHANTOM: is synthetic"):
        find_raw("PHANTOM", tmp_path)


def test_synapse_ids_are_positions_and_its_test_part_is_left_out(tmp_path):
    write_synapse(tmp_path)
    result = find_raw("SABS", tmp_path)
    assert [(scan.scan_id, scan.name) for scan in result.scans] == [
        (0, "img0001"),
        (1, "img0002"),
        (2, "img0003"),
        (3, "img0021"),
        (4, "img0022"),
    ]
    assert "1 image(s) of a folder without labels are left out" in result.remarks[0]
    assert result.problems == ()


def test_cmr_ids_are_the_patients_and_values_become_labels(tmp_path):
    written = write_mscmrseg(tmp_path)
    result = find_raw("CMR", tmp_path)
    assert [scan.scan_id for scan in result.scans] == [2, 3, 10, 11, 30]
    volume = result.read(result.scans[3])
    assert (volume.label_map == written[3].label_map).all()
    assert (volume.image == written[3].image).all()
    assert volume.geometry.same_grid(written[3].geometry)
    assert result.remarks == ("left out, without labels after patient 30: patient36_C0.nii.gz",)


def test_custom_ids_count_nnunets_cases_by_the_numbers_in_their_names(tmp_path):
    write_custom_nnunet(tmp_path)
    result = find_raw("Hips", tmp_path)
    assert [(scan.scan_id, scan.name) for scan in result.scans] == [
        (0, "hip_8"),
        (1, "hip_9"),
        (2, "hip_10"),
        (3, "hip_11"),
        (4, "hip_12"),
    ]


def test_custom_ids_are_those_in_numbered_names_wherever_these_lie(tmp_path):
    written = write_custom_numbered(tmp_path / "raw")
    expected = [scan.scan_id for scan in written]
    assert [scan.scan_id for scan in find_raw("Hips", tmp_path / "raw").scans] == expected
    (tmp_path / "linked").mkdir()
    (tmp_path / "raw" / "dataset.json").rename(tmp_path / "linked" / "dataset.json")
    (tmp_path / "linked" / "volumes").symlink_to(tmp_path / "raw")
    result = find_raw("Hips", tmp_path / "linked")
    assert [scan.scan_id for scan in result.scans] == expected
    assert (result.read(result.scans[1]).label_map == written[1].label_map).all()


def test_plain_nifti_is_read_if_dataset_json_names_it(tmp_path):
    written = write_custom_numbered(tmp_path, n_scans=1, file_ending=".nii")
    for path in (*written[0].image_files, *written[0].label_files):
        path.rename(path.with_suffix(""))
    result = find_raw("Hips", tmp_path)
    assert result.scans[0].image_files[0].name == "image_3.nii"


def test_a_published_sets_spec_is_used_and_a_custom_ones_is_read(tmp_path):
    write_custom_nnunet(tmp_path, n_scans=1, orientation="RAS")
    result = find_raw("Hips", tmp_path)
    assert result.spec.labels == {1: "left femur", 3: "right femur"}
    assert result.preparation.orientation == "RAS"
