"""A prepared dataset is brought up to date: what is missing or changed is made, after all checks."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from data import volume_records
from data.prepare import dataset as preparation
from tests.data.preparations import (
    IDS,
    change_image,
    config_of,
    files_of,
    layout_of,
    prepare,
    raw_file,
    times_of,
    volumes_of,
)
from tests.data.raw.raw_sets import WRITERS
from util.errors import UserError
from util.io.image_io import read_volume, write_volume


def test_all_outputs_and_nothing_else_exist_at_the_end(prepared_cmr):
    expected = {
        "cases.json",
        "fingerprint.json",
        "contact_sheet.png",
        "cmr_MR_normalized",
        "supervoxels_1000",
    }
    expected |= {f"cmr_MR_normalized/{kind}_{i}.nii.gz" for kind in ("image", "label") for i in IDS}
    expected |= {f"cmr_MR_normalized/scan_{i}.record.json" for i in IDS}
    expected |= {"cmr_MR_normalized/summary.record.json"}
    expected |= {
        f"supervoxels_1000/superpix-MIDDLE_{i}.{end}" for i in IDS for end in ("nii.gz", "record.json")
    }
    assert set(files_of(prepared_cmr)) == expected


def test_cases_map_ids_to_scans(prepared_cmr):
    assert json.loads((prepared_cmr / "cases.json").read_text()) == {
        "dataset": "CMR",
        "scans": {"2": "patient2", "3": "patient3", "10": "patient10"},
    }


def test_results_are_reported(raw_cmr, tmp_path, capsys):
    preparation.prepare_dataset(config_of(raw_cmr, tmp_path / "CMR"), progress=False)
    output = capsys.readouterr().out
    assert f"CMR: {raw_cmr}, 3 scans -> {tmp_path}/CMR/cmr_MR_normalized" in output
    assert "remark: left out, without labels after patient 10: patient36_C0.nii.gz" in output
    assert "3 scans checked, no problem" in output
    assert "volumes: 3 made, 0 up to date\nsupervoxels: 3 made, 0 up to date, 0 of others kept\n" in output
    rows = [
        line.split() for line in output.splitlines() if line.split()[1:2] and "patient" in line.split()[1]
    ]
    assert [row[:7] for row in rows] == [[str(i), f"patient{i}", "4", "x", "256", "x", "256"] for i in IDS]


def test_a_second_call_makes_nothing_and_reads_no_scan(workspace, capsys, monkeypatch):
    before = times_of(workspace)
    for target in ("data.prepare.volume_preparation._prepare_one", "data.prepare.dataset_checks._check_one"):
        monkeypatch.setattr(target, lambda task: pytest.fail("a raw scan was read"))
    monkeypatch.setattr("data.prepare.summary.write_fingerprint", lambda *_, **__: pytest.fail("written"))
    monkeypatch.setattr("data.file_states.file_state", lambda path: pytest.fail(f"{path} was hashed"))
    prepare(workspace)
    output = capsys.readouterr().out
    assert "volumes: 0 made, 3 up to date\nsupervoxels: 0 made, 3 up to date, 0 of others kept\n" in output
    assert "fingerprint and contact sheet: up to date" in output
    assert times_of(workspace) == before


def test_a_copy_without_times_is_recognised_by_its_content(workspace, capsys):
    for path in [*workspace.rglob("*")]:
        os.utime(path, ns=(5, 5))
    before = volumes_of(workspace)
    prepare(workspace)
    assert "volumes: 0 made, 3 up to date\nsupervoxels: 0 made, 3 up" in capsys.readouterr().out
    assert volumes_of(workspace) == before


def test_only_the_scan_whose_raw_image_changed_is_made_again(workspace, capsys):
    change_image(workspace, 3)
    before = volumes_of(workspace)
    prepare(workspace)
    output = capsys.readouterr().out
    assert "1 scan checked, no problem" in output
    assert "volumes: 1 made, 2 up to date\nsupervoxels: 1 made, 2 up" in output
    after = volumes_of(workspace)
    assert {name for name in after if after[name] != before[name]} == {"image_3.nii.gz"}
    image = read_volume(layout_of(workspace).image_path(3))[0]
    limit = np.percentile(read_volume(raw_file(workspace, "image", 3))[0], 99.5)
    assert image.max() == pytest.approx(limit)


@pytest.mark.parametrize("name", ["image_3.nii.gz", "label_3.nii.gz", "scan_3.record.json"])
def test_a_lost_or_damaged_file_is_made_again_just_as_it_was(workspace, capsys, name):
    before = {i: read_volume(layout_of(workspace).image_path(i))[0] for i in IDS}
    path = layout_of(workspace).volumes_dir / name
    path.write_bytes(path.read_bytes()[:-3])
    prepare(workspace)
    assert "volumes: 1 made, 2 up to date" in capsys.readouterr().out
    for scan_id, image in before.items():
        np.testing.assert_array_equal(read_volume(layout_of(workspace).image_path(scan_id))[0], image)
    layout_of(workspace).label_path(10).unlink()
    prepare(workspace)
    assert "volumes: 1 made, 2 up to date" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fingerprint.json", "contact_sheet.png", "cases.json"])
def test_a_lost_description_is_written_again(workspace, capsys, name):
    before = (workspace / "CMR" / name).read_bytes()
    (workspace / "CMR" / name).unlink()
    prepare(workspace)
    assert "volumes: 0 made, 3 up to date" in capsys.readouterr().out
    assert (workspace / "CMR" / name).read_bytes() == before


def test_another_version_of_the_code_makes_everything_again(workspace, capsys, monkeypatch):
    monkeypatch.setattr(volume_records, "PREPARATION_VERSION", volume_records.PREPARATION_VERSION + 1)
    prepare(workspace)
    assert "volumes: 3 made, 0 up to date\nsupervoxels: 0 made, 3 up to date" in capsys.readouterr().out


def test_other_supervoxels_lie_where_they_are_wanted(workspace, capsys):
    prepare(workspace, n_sv=300, supervoxel_dir=str(workspace / "elsewhere"))
    output = capsys.readouterr().out
    assert "volumes: 0 made, 3 up to date\nsupervoxels: 3 made" in output
    assert "fingerprint and contact sheet: made" in output
    result = sorted(path.name for path in (workspace / "elsewhere/supervoxels_300").glob("*.nii.gz"))
    assert result == [f"superpix-MIDDLE_{i}.nii.gz" for i in (10, 2, 3)]


def test_force_makes_all_volumes_again(workspace, capsys):
    prepare(workspace, force=True)
    assert "volumes: 3 made, 0 up to date\nsupervoxels: 0 made, 3 up to date" in capsys.readouterr().out


def test_what_killed_processes_left_is_removed_even_where_nothing_is_made(workspace, capsys):
    folders = ("CMR", "CMR/cmr_MR_normalized", "CMR/supervoxels_1000")
    left = [
        workspace / folder / f".{name}.abcd1234.tmp.nii.gz" for folder in folders for name in ("image_3", "x")
    ]
    for path in left:
        path.touch()
    prepare(workspace)
    assert "volumes: 0 made, 3 up to date" in capsys.readouterr().out
    assert not any(path.exists() for path in left)


def test_what_describes_the_volumes_is_gone_while_they_change(workspace, monkeypatch):
    change_image(workspace, 3)

    def fail(*arguments, **keywords):
        present = {path.name for path in (workspace / "CMR").iterdir()}
        assert present == {"cases.json", "cmr_MR_normalized", "supervoxels_1000"}
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "prepare_scans", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare(workspace)


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("oops"), UserError("too thin")])
def test_a_scan_that_fails_while_it_is_made_is_named(workspace, monkeypatch, error):
    def fail(*arguments, **keywords):
        raise error

    change_image(workspace, 3)
    monkeypatch.setattr("data.prepare.volume_preparation.prepare_volume", fail)
    kind = RuntimeError if isinstance(error, ZeroDivisionError) else UserError
    with pytest.raises(kind, match=r"patient3_C0\.nii\.gz.*(not enough memory|oops|too thin)"):
        prepare(workspace)


def test_all_problems_of_all_scans_are_reported_at_once_and_nothing_is_written(workspace):
    shutil.rmtree(workspace / "CMR")
    raw_file(workspace, "label", 2).unlink()
    image, geometry = read_volume(raw_file(workspace, "image", 3))
    write_volume(raw_file(workspace, "image", 3), np.zeros_like(image), geometry)
    raw_file(workspace, "label", 10).write_bytes(b"no image")
    before = files_of(workspace)
    with pytest.raises(UserError) as caught:
        prepare(workspace, num_workers=2)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for name in ("patient2_C0", "patient3_C0.nii.gz", "patient10_C0_manual.nii.gz"):
        assert sum(f"{name}" in line for line in lines) == 1
    assert files_of(workspace) == before


def test_a_problem_of_one_scan_leaves_what_is_prepared_alone(workspace):
    raw_file(workspace, "image", 3).write_bytes(b"no image")
    before = files_of(workspace)
    with pytest.raises(UserError, match=r"patient3_C0\.nii\.gz"):
        prepare(workspace)
    assert files_of(workspace) == before


def test_a_check_reads_all_scans_and_writes_nothing(workspace, capsys):
    shutil.rmtree(workspace / "CMR")
    before = files_of(workspace)
    prepare(workspace, check=True)
    assert "3 scans checked, no problem" in capsys.readouterr().out
    assert files_of(workspace) == before


def test_a_check_looks_at_scans_that_are_prepared_already(workspace, capsys):
    raw_file(workspace, "image", 3).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"patient3_C0\.nii\.gz"):
        prepare(workspace, check=True)
    assert "3 scans checked, 1 problem" in capsys.readouterr().out


def test_a_border_that_leaves_nothing_is_reported_before_anything_is_written(tmp_path):
    (written, *_) = WRITERS["SABS"](tmp_path / "raw", n_scans=2)
    for path in (*written.image_files, *written.label_files):
        volume, geometry = read_volume(path)
        write_volume(path, volume[:, :64], replace(geometry, shape=volume[:, :64].shape))
    config = config_of(tmp_path / "raw", tmp_path / "SABS", dataset="SABS")
    message = r"img0001\.nii\.gz: slices must be larger than twice the border of 32 px .* got 64 x 112 px"
    with pytest.raises(UserError, match=message) as caught:
        preparation.prepare_dataset(config, progress=False)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "SABS").exists()
