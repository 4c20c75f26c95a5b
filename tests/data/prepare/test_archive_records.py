"""An archive gives what its folder gives, and is unpacked only where that may change something."""

import shutil

import numpy as np
import pytest

from data import volume_records
from data.prepare import dataset as preparation
from tests.data.preparations import config_of, layout_of, raw_file, times_of
from util.errors import UserError
from util.io.image_io import read_volume


@pytest.fixture(name="zipped")
def _zipped(workspace):
    shutil.make_archive(str(workspace / "download"), "zip", workspace / "download")
    shutil.rmtree(workspace / "download")
    shutil.rmtree(workspace / "CMR")
    return workspace


def prepare_zip(workspace, **changes):
    preparation.prepare_dataset(
        config_of(workspace / "download.zip", workspace / "CMR", **changes), progress=False
    )


def test_an_archive_gives_the_same_volumes_as_its_folder(zipped, prepared_cmr):
    prepare_zip(zipped)
    assert sorted(path.name for path in zipped.iterdir()) == ["CMR", "download.zip"]
    for path in sorted((prepared_cmr / "cmr_MR_normalized").glob("*.nii.gz")):
        voxels, geometry = read_volume(zipped / "CMR" / "cmr_MR_normalized" / path.name)
        expected, expected_geometry = read_volume(path)
        np.testing.assert_array_equal(voxels, expected)
        assert geometry == expected_geometry


def test_an_unchanged_archive_is_not_unpacked_again(zipped, capsys, monkeypatch):
    prepare_zip(zipped)
    before = times_of(zipped)
    with monkeypatch.context() as patch:
        patch.setattr("data.prepare.sources.unpack", lambda *_: pytest.fail("it was unpacked"))
        prepare_zip(zipped)
    assert times_of(zipped) == before
    output = capsys.readouterr().out
    assert "unchanged since all was prepared" in output
    assert "volumes: 0 made, 3 up to date\nsupervoxels: 0 made, 3 up" in output


@pytest.mark.parametrize("change", ["volume lost", "other archive", "other version", "interrupted"])
def test_an_archive_is_unpacked_where_anything_may_have_changed(zipped, capsys, monkeypatch, change):
    prepare_zip(zipped)
    capsys.readouterr()
    n_made = {"volume lost": 1, "other archive": 0, "other version": 3, "interrupted": 0}[change]
    if change == "volume lost":
        layout_of(zipped).label_path(3).unlink()
    elif change == "other archive":  # of the same scans
        with (zipped / "download.zip").open("ab") as archive:
            archive.write(b"\0")
    elif change == "other version":
        monkeypatch.setattr(volume_records, "PREPARATION_VERSION", 99)
    else:
        (layout_of(zipped).volumes_dir / "archive.record.json").unlink()
    prepare_zip(zipped)
    output = capsys.readouterr().out
    assert "unchanged since" not in output
    assert f"volumes: {n_made} made, {3 - n_made} up to date" in output


def test_problems_in_an_archive_are_reported_by_its_name_and_leave_nothing(zipped):
    shutil.unpack_archive(zipped / "download.zip", zipped / "download")
    raw_file(zipped, "image", 3).write_bytes(b"no image")
    shutil.make_archive(str(zipped / "download"), "zip", zipped / "download")
    shutil.rmtree(zipped / "download")
    with pytest.raises(UserError) as caught:
        prepare_zip(zipped)
    assert str(caught.value).startswith(f"{zipped}/download.zip/c0t2lge/patient3_C0.nii.gz: ")
    assert [path.name for path in zipped.iterdir()] == ["download.zip"]
