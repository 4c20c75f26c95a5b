"""Which scans a file, a folder or a pattern names, and what their results are called."""

from pathlib import Path

import pytest

from data.raw.input_listing import find_inputs, name_outputs
from util.errors import UserError


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(128) + b"DICM" if "dicom" in name else b"x")


@pytest.fixture(name="scans")
def _scans(tmp_path):
    _touch(tmp_path, "c10.nii.gz", "c2.nii", "d.NRRD", "e.mha", ".hidden.nii", "notes.txt", "f.raw")
    _touch(tmp_path, "series/dicom1", "series/dicom2", "other/deep/x.nii", "series/readme.txt")
    return tmp_path


def test_a_folder_stands_for_its_scans_and_series_in_natural_order(scans):
    names = ["c2.nii", "c10.nii.gz", "d.NRRD", "e.mha", "series"]
    assert [path.name for path in find_inputs([str(scans)])] == names
    assert find_inputs([str(scans / "series")]) == [scans / "series"]


def test_files_and_patterns_are_found_once_each(scans):
    patterns = [f"{scans}/c*", f"{scans}/e.mha", f"{scans}/c2.nii"]
    assert [path.name for path in find_inputs(patterns)] == ["c2.nii", "c10.nii.gz", "e.mha"]
    assert [path.name for path in find_inputs([f"{scans}/**/x.nii"])] == ["x.nii"]


def test_every_entry_that_names_nothing_is_reported(scans):
    with pytest.raises(UserError) as caught:
        find_inputs([f"{scans}/none.nii", f"{scans}/*.txt", str(scans / "other")])
    lines = str(caught.value).splitlines()
    texts = ("no such file or folder", "matches 1 files or folders, none of them a scan", "holds no scan")
    assert len(lines) == 3
    assert all(text in line for text, line in zip(texts, lines, strict=True))


def test_results_have_the_names_of_their_scans(scans):
    names = name_outputs(find_inputs([str(scans)]))
    expected = ["c2.nii.gz", "c10.nii.gz", "d.nrrd", "e.mha", "series.nii.gz"]
    assert list(names.values()) == expected


def test_scans_of_one_name_get_the_folders_that_tell_them_apart():
    paths = [Path("/x/1/a/t2.nii.gz"), Path("/x/2/a/t2.nii.gz"), Path("/x/2/a/t1.nii.gz")]
    assert list(name_outputs(paths).values()) == ["1_a_t2.nii.gz", "2_a_t2.nii.gz", "t1.nii.gz"]


def test_two_scans_never_share_a_result():
    with pytest.raises(UserError, match="would be written as"):
        name_outputs([Path("/x/a.nii"), Path("/x/a.nii.gz")])
