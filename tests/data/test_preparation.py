"""Prepared volumes are there before they are used: PHANTOM's are made, real ones are asked for."""

import pytest

from data.layout import DatasetLayout
from data.phantom import PhantomSettings
from data.preparation import ensure_volumes
from data.specs import find_spec
from util.errors import UserError
from util.image_io import read_geometry

TINY = PhantomSettings(image_size_px=32, min_slices=18, max_slices=18)


def _layout(folder, name):
    return DatasetLayout(find_spec(name), folder, folder, supervoxel_min_vox=60)


def test_the_phantoms_missing_scans_are_made_with_the_given_settings(tmp_path):
    layout = _layout(tmp_path, "PHANTOM")
    assert ensure_volumes(layout, phantom=TINY, n_phantom_scans=2) == [0, 1]
    assert read_geometry(layout.image_path(1)).shape == (18, 32, 32)
    made = layout.image_path(0).stat().st_mtime_ns
    assert ensure_volumes(layout, phantom=TINY, n_phantom_scans=2) == [0, 1]
    assert layout.image_path(0).stat().st_mtime_ns == made


def test_real_volumes_are_listed_and_never_made(tmp_path):
    layout = _layout(tmp_path, "CHAOST2")
    layout.volumes_dir.mkdir()
    layout.image_path(5).touch()
    assert ensure_volumes(layout, phantom=TINY, n_phantom_scans=2) == [5]
    assert [path.name for path in layout.volumes_dir.iterdir()] == ["image_5.nii.gz"]


def test_missing_real_volumes_are_an_error_and_no_fallback(tmp_path):
    with pytest.raises(UserError, match=r"no such folder; .* set path\.CHAOST2\.data_dir"):
        ensure_volumes(_layout(tmp_path / "gone", "CHAOST2"), phantom=TINY, n_phantom_scans=2)
    assert list(tmp_path.iterdir()) == []
