"""Prepared volumes are there before they are used: PHANTOM's are made, real ones are requested."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from data.datasets import find_spec
from data.fingerprint import FINGERPRINT_NAME, write_fingerprint
from data.layout import DatasetLayout
from data.phantom.scans import PhantomSettings
from data.preparation import describe_change, ensure_volumes, hash_volumes
from util.errors import UserError
from util.io.image_io import Geometry, read_geometry, write_volume

TINY = PhantomSettings(image_size_px=32, min_slices=18, max_slices=18)


def _layout(folder, name):
    return DatasetLayout(find_spec(name), folder, folder, supervoxel_min_vox=60)


def _write_image(layout, scan_id, *, direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)):
    geometry = Geometry((2, 3, 4), (7.7, 1.25, 1.25), (0.0, 0.0, 0.0), direction)
    write_volume(layout.image_path(scan_id), np.arange(24, dtype=np.int16).reshape(2, 3, 4), geometry)


def test_the_phantoms_missing_scans_are_made_with_the_requested_settings(tmp_path):
    layout = _layout(tmp_path, "PHANTOM")
    assert ensure_volumes(layout, phantom=TINY, n_phantom_scans=2) == [0, 1]
    assert read_geometry(layout.image_path(1)).shape == (18, 32, 32)
    modified_ns = layout.image_path(0).stat().st_mtime_ns
    assert ensure_volumes(layout, phantom=TINY, n_phantom_scans=2) == [0, 1]
    assert layout.image_path(0).stat().st_mtime_ns == modified_ns


def test_real_volumes_are_listed_and_never_made(tmp_path):
    layout = _layout(tmp_path, "CHAOST2")
    layout.volumes_dir.mkdir()
    _write_image(layout, 5)
    assert ensure_volumes(layout, phantom=TINY, n_phantom_scans=2) == [5]
    assert [path.name for path in layout.volumes_dir.iterdir()] == ["image_5.nii.gz"]


def test_missing_real_volumes_are_an_error_and_no_fallback(tmp_path):
    with pytest.raises(UserError, match=r"no such folder; .* set path\.CHAOST2\.data_dir"):
        ensure_volumes(_layout(tmp_path / "gone", "CHAOST2"), phantom=TINY, n_phantom_scans=2)
    assert list(tmp_path.iterdir()) == []


def test_volumes_of_an_interrupted_preparation_are_not_used(tmp_path):
    layout = _layout(tmp_path, "CHAOST2")
    layout.volumes_dir.mkdir()
    for scan_id in (1, 5):
        _write_image(layout, scan_id)
    cases = {"dataset": "CHAOST2", "scans": {"1": "1", "5": "5"}}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    assert ensure_volumes(layout, phantom=TINY, n_phantom_scans=2) == [1, 5]
    cases["scans"] |= {"8": "8", "10": "10"}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    with pytest.raises(
        UserError, match=r"lacks 2 scans that cases\.json lists, 8 the first; run script/prepare"
    ):
        ensure_volumes(layout, phantom=TINY, n_phantom_scans=2)


MIRRORED, ROWS_UP = (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0), (1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
TILTED = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1.0)


@pytest.mark.parametrize(("direction", "result"), [(MIRRORED, "RPS"), (ROWS_UP, "LAS")])
def test_a_volume_whose_axes_run_otherwise_than_most_is_named(tmp_path, direction, result):
    layout = _layout(tmp_path, "CHAOST2")
    for scan_id in (1, 2, 5):
        _write_image(layout, scan_id)
    _write_image(layout, 3, direction=TILTED)  # differs by obliquity alone
    assert ensure_volumes(layout, phantom=TINY, n_phantom_scans=2) == [1, 2, 3, 5]
    for scan_id in (8, 13):
        _write_image(layout, scan_id, direction=direction)
    with pytest.raises(
        UserError, match=rf"image_8\.nii\.gz: orientation must be LPS .* got {result} \(also scans 13\)"
    ):
        ensure_volumes(layout, phantom=TINY, n_phantom_scans=2)


def test_custom_datasets_may_have_an_orientation_for_each_slice_axis(tmp_path):
    layout = replace(_layout(tmp_path, "CHAOST2"), spec=replace(find_spec("CHAOST2"), keeps_slice_axes=True))
    coronal, sagittal = (1.0, 0, 0, 0, 0, 1.0, 0, 1.0, 0), (0, 0, 1.0, 1.0, 0, 0, 0, 1.0, 0)
    for scan_id, direction in enumerate((TILTED, coronal, coronal, sagittal)):
        _write_image(layout, scan_id, direction=direction)
    assert ensure_volumes(layout, phantom=TINY, n_phantom_scans=2) == [0, 1, 2, 3]
    _write_image(layout, 4, direction=(1.0, 0, 0, 0, 0, 1.0, 0, -1.0, 0))
    with pytest.raises(
        UserError, match=r"image_4\.nii\.gz: orientation must be LSP as of most scans, got LIP"
    ):
        ensure_volumes(layout, phantom=TINY, n_phantom_scans=2)


@pytest.fixture(name="phantom")
def _phantom(tmp_path):
    layout = _layout(tmp_path, "PHANTOM")
    ensure_volumes(layout, phantom=TINY, n_phantom_scans=2)
    return layout


def test_the_hash_is_the_written_fingerprints_unless_volumes_are_younger(phantom):
    expected = hash_volumes(phantom)
    assert expected == write_fingerprint(phantom).hash
    path = phantom.data_dir / FINGERPRINT_NAME
    text = path.read_text()
    path.write_text("damaged")
    with pytest.raises(UserError, match="damaged"):
        hash_volumes(phantom)
    image = phantom.image_path(0)
    os.utime(image, ns=(path.stat().st_mtime_ns + 10**9,) * 2)
    assert hash_volumes(phantom) == expected  # what is older is not looked at
    path.write_text(text)


def test_the_written_fingerprint_is_not_of_volumes_that_went_or_came_since(phantom):
    before = write_fingerprint(phantom).hash
    path, label = phantom.data_dir / FINGERPRINT_NAME, phantom.label_path(1)
    content = label.read_bytes()
    label.unlink()
    after = hash_volumes(phantom)
    assert after != before
    assert after == write_fingerprint(phantom).hash
    label.write_bytes(content)
    os.utime(label, ns=(path.stat().st_mtime_ns - 10**9,) * 2)
    assert hash_volumes(phantom) == before


def test_other_files_beside_the_volumes_do_not_count(phantom):
    expected = write_fingerprint(phantom).hash
    (phantom.volumes_dir / "old.nii.gz").symlink_to("gone")
    (phantom.volumes_dir / ".image_1.nii.gz.abcd1234.tmp.nii.gz").touch()
    assert hash_volumes(phantom) == expected


def test_a_label_that_links_to_nowhere_is_named(tmp_path):
    layout = _layout(tmp_path, "CHAOST2")
    layout.volumes_dir.mkdir()
    layout.image_path(5).touch()
    layout.label_path(5).symlink_to("gone")
    with pytest.raises(UserError, match=r"label_5\.nii\.gz: links to a file that does not exist"):
        ensure_volumes(layout, phantom=TINY, n_phantom_scans=2)


def test_changed_volumes_are_reported(phantom):
    before = hash_volumes(phantom)
    for known in (before, None):
        assert describe_change(known, before) == []
    phantom.image_path(0).write_bytes(phantom.image_path(1).read_bytes())
    phantom.label_path(0).write_bytes(phantom.label_path(1).read_bytes())
    [line] = describe_change(before, hash_volumes(phantom))
    assert line.startswith(f"warning: the volumes changed since the training (fingerprint {before}, now ")
