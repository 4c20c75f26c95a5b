"""How the phantom's scans are kept on disk, and the command that makes them."""

import json

import nibabel
import numpy as np
import pytest

from data.datasets import find_spec
from data.phantom import scans
from data.phantom.__main__ import main
from data.phantom.scans import PhantomSettings, make_phantom, render_scan
from util.errors import UserError
from util.io.image_io import read_volume

TINY = PhantomSettings(image_size_px=32, min_slices=18, max_slices=18)
VOLUMES = find_spec("PHANTOM").volumes_folder


def test_files_hold_the_rendered_scan_on_one_grid(tmp_path):
    assert make_phantom(tmp_path, TINY, n_scans=2, progress=False) == [0, 1]
    image, label_map, geometry = render_scan(1, TINY)
    stored, stored_geometry = read_volume(tmp_path / VOLUMES / "image_1.nii.gz")
    assert np.array_equal(stored, image)
    assert stored_geometry.same_grid(geometry)
    image_file = nibabel.load(tmp_path / VOLUMES / "image_1.nii.gz")
    label_file = nibabel.load(tmp_path / VOLUMES / "label_1.nii.gz")
    assert np.array_equal(np.asarray(label_file.dataobj).T, label_map)
    np.testing.assert_allclose(image_file.affine, label_file.affine)
    np.testing.assert_allclose(image_file.header.get_zooms(), (10, 10, 7.7), rtol=1e-6)
    assert nibabel.aff2axcodes(image_file.affine) == ("L", "A", "S")


def _state(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*.*")}


def test_an_unchanged_call_touches_nothing(tmp_path, monkeypatch):
    make_phantom(tmp_path, TINY, n_scans=2, progress=False)
    before = _state(tmp_path)
    monkeypatch.setattr(scans, "render_scan", lambda *_: pytest.fail("rendered again"))
    assert make_phantom(tmp_path, TINY, n_scans=2, progress=False) == [0, 1]
    assert _state(tmp_path) == before


def test_only_missing_scans_are_made(tmp_path):
    make_phantom(tmp_path, TINY, n_scans=2, progress=False)
    before = _state(tmp_path)
    (tmp_path / VOLUMES / "label_1.nii.gz").unlink()
    make_phantom(tmp_path, TINY, n_scans=3, progress=False)
    after = _state(tmp_path)
    assert after["image_0.nii.gz"] == before["image_0.nii.gz"]
    assert len(list((tmp_path / VOLUMES).iterdir())) == 6


def test_fewer_scans_leave_no_surplus_files(tmp_path):
    make_phantom(tmp_path, TINY, n_scans=3, progress=False)
    make_phantom(tmp_path, TINY, n_scans=1, progress=False)
    assert sorted(path.name for path in (tmp_path / VOLUMES).iterdir()) == [
        "image_0.nii.gz",
        "label_0.nii.gz",
    ]
    assert json.loads((tmp_path / "phantom.json").read_text())["n_scans"] == 1


def test_changed_settings_rebuild_all_scans(tmp_path):
    make_phantom(tmp_path, TINY, n_scans=2, progress=False)
    before = _state(tmp_path)
    larger = PhantomSettings(image_size_px=36, min_slices=18, max_slices=18)
    make_phantom(tmp_path, larger, n_scans=1, progress=False)
    assert _state(tmp_path)["image_0.nii.gz"] != before["image_0.nii.gz"]
    assert read_volume(tmp_path / VOLUMES / "image_0.nii.gz")[0].shape == (18, 36, 36)
    assert not (tmp_path / VOLUMES / "image_1.nii.gz").exists()


def test_a_new_generator_version_rebuilds_all_scans(tmp_path, monkeypatch):
    make_phantom(tmp_path, TINY, n_scans=1, progress=False)
    before = _state(tmp_path)
    monkeypatch.setattr(scans, "GENERATOR_VERSION", scans.GENERATOR_VERSION + 1)
    make_phantom(tmp_path, TINY, n_scans=1, progress=False)
    assert _state(tmp_path)["image_0.nii.gz"] != before["image_0.nii.gz"]


def test_an_interrupted_call_can_resume(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(scans, "render_scan", stop)
        with pytest.raises(KeyboardInterrupt):
            make_phantom(tmp_path, TINY, n_scans=1, progress=False)
    make_phantom(tmp_path, TINY, n_scans=1, progress=False)
    assert (tmp_path / VOLUMES / "image_0.nii.gz").is_file()


def test_volumes_made_by_others_are_refused_and_kept(tmp_path):
    foreign = tmp_path / VOLUMES / "image_5.nii.gz"
    foreign.parent.mkdir()
    foreign.write_bytes(b"precious")
    with pytest.raises(UserError, match=r"image_5\.nii\.gz: not made by the phantom"):
        make_phantom(tmp_path, TINY, n_scans=1, progress=False)
    assert foreign.read_bytes() == b"precious"
    assert not (tmp_path / "phantom.json").exists()


def test_a_foreign_volume_among_the_phantoms_is_refused(tmp_path):
    make_phantom(tmp_path, TINY, n_scans=1, progress=False)
    foreign = tmp_path / VOLUMES / "label_1.nii.gz"
    foreign.write_bytes(b"precious")
    with pytest.raises(UserError, match="not made by the phantom"):
        make_phantom(tmp_path, TINY, n_scans=2, progress=False)
    assert foreign.read_bytes() == b"precious"


def test_a_record_of_endless_scans_costs_no_time(tmp_path):
    make_phantom(tmp_path, TINY, n_scans=1, progress=False)
    before, path = _state(tmp_path), tmp_path / "phantom.json"
    path.write_text(path.read_text().replace('"n_scans": 1', f'"n_scans": {10**15}'))
    assert make_phantom(tmp_path, TINY, n_scans=1, progress=False) == [0]
    assert {name: before[name] for name in before if name != "phantom.json"}.items() <= _state(
        tmp_path
    ).items()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"made_by": "another"}',
        '{"made_by": "data.phantom"}',
        '{"made_by": "data.phantom", "n_scans": true}',
    ],
)
def test_a_record_that_is_not_ours_is_refused(tmp_path, text):
    (tmp_path / "phantom.json").write_text(text)
    with pytest.raises(UserError, match="not a record of the phantom"):
        make_phantom(tmp_path, TINY, n_scans=1, progress=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size_px": 8}, "image_size_px must be at least 32, got 8"),
        ({"min_slices": 4}, "slices must satisfy 18 <= min_slices <= max_slices, got 4 and 28"),
        ({"min_slices": 25, "max_slices": 20}, "got 25 and 20"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_settings_that_give_no_scan_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        PhantomSettings(**wrong)


def test_no_scans_at_all_are_refused(tmp_path):
    with pytest.raises(UserError, match="n_scans must be at least 1, got 0"):
        make_phantom(tmp_path, TINY, n_scans=0)


def test_the_command_writes_scans_and_prints_the_folder(tmp_path, capsys):
    sizes = ["--image-size-px", "32", "--min-slices", "18", "--max-slices", "18"]
    assert main(["--data-dir", str(tmp_path), "--n-scans", "1", *sizes]) == 0
    assert (tmp_path / VOLUMES / "image_0.nii.gz").is_file()
    assert capsys.readouterr().out == f"PHANTOM: 1 scans in {tmp_path}\n"


def test_the_command_reports_bad_input_in_one_line(tmp_path, capsys):
    assert main(["--data-dir", str(tmp_path), "--min-slices", "3"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: phantom: slices must satisfy")
    assert captured.err.count("\n") == 1
