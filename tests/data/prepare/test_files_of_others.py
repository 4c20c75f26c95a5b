"""Preparation loses nobody's files and mixes them with no others."""

import os

import pytest

from data import volume_records
from tests.data.preparations import (
    IDS,
    change_image,
    files_of,
    layout_of,
    prepare,
    raw_file,
)
from util.errors import UserError
from util.io.files import try_lock


def test_volumes_of_others_are_not_overwritten_but_by_force(workspace, capsys):
    foreign = layout_of(workspace)
    for scan_id in IDS:
        volume_records.scan_record_path(foreign, scan_id).unlink()
    before = files_of(workspace)
    with pytest.raises(
        UserError, match=r"image_2\.nii\.gz: was not made by this command.* set force=True to replace"
    ):
        prepare(workspace)
    assert files_of(workspace) == before
    prepare(workspace, force=True)
    assert "volumes: 3 made" in capsys.readouterr().out
    prepare(workspace)
    assert "volumes: 0 made, 3 up to date" in capsys.readouterr().out


@pytest.mark.parametrize("force", [False, True])
def test_scans_of_others_are_never_mixed_with_ours(workspace, force):
    (layout_of(workspace).volumes_dir / "image_77.nii.gz").write_bytes(b"theirs")
    before = files_of(workspace)
    with pytest.raises(UserError, match=r"image_77\.nii\.gz: was not made by this command; move it away"):
        prepare(workspace, force=force)
    assert files_of(workspace) == before


def test_scans_that_the_download_lost_stop_the_call_or_are_removed_by_force(workspace, capsys):
    for kind in ("image", "label"):
        raw_file(workspace, kind, 3).unlink()
    before = files_of(workspace)
    with pytest.raises(
        UserError, match=r"image_3\.nii\.gz: was prepared from a scan that the download no longer"
    ):
        prepare(workspace)
    assert files_of(workspace) == before
    prepare(workspace, force=True)
    assert "volumes: 2 made, 0 up to date, 1 removed" in capsys.readouterr().out
    assert layout_of(workspace).scan_ids() == [2, 10]
    assert volume_records.list_recorded_ids(layout_of(workspace)) == [2, 10]


def test_supervoxels_of_others_are_kept_while_their_images_are(workspace, capsys):
    foreign = layout_of(workspace).supervoxel_path(3)
    foreign.with_name("superpix-MIDDLE_3.record.json").unlink()
    before = foreign.read_bytes()
    prepare(workspace)
    assert "supervoxels: 0 made, 2 up to date, 1 of others kept" in capsys.readouterr().out
    change_image(workspace, 3)
    with pytest.raises(UserError, match=r"superpix-MIDDLE_3\.nii\.gz: .* its image is about to change"):
        prepare(workspace)
    assert foreign.read_bytes() == before
    prepare(workspace, force=True)
    assert "supervoxels: 1 made, 2 up to date, 0 of others kept" in capsys.readouterr().out


def test_two_preparations_of_a_folder_do_not_meet(workspace):
    change_image(workspace, 3)
    before = files_of(workspace)
    handle = os.open(workspace / "CMR", os.O_RDONLY)
    try:
        assert try_lock(handle)
        with pytest.raises(UserError, match=r"CMR: another preparation is running there; wait"):
            prepare(workspace)
    finally:
        os.close(handle)
    assert files_of(workspace) == before
    prepare(workspace)
