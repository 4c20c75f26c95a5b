"""A pair is registered once; damage and change are seen, and the cache changes no bit."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data.registration import registration_cache
from data.registration.pairwise_registration import ScanVolume, register
from data.registration.registration_cache import cache_path, register_pairs
from data.registration.registration_stages import MUTUAL_INFORMATION
from tests.data.registration.synthetic_bodies import body_scan, grid
from util.errors import UserError
from util.remarks import Remark

SHAPE, SPACING_MM = (14, 26, 28), (12.0, 6.5, 6.5)
SUPPORT = body_scan(grid(SHAPE, SPACING_MM, centre_mm=(4.0, 3.0, -6.0)), seed=1)
QUERY = body_scan(grid(SHAPE, SPACING_MM))


def run(folder, pairs=((SUPPORT, QUERY),), **options):
    return register_pairs(pairs, cache_dir=folder, progress=False, **{"n_workers": 1, **options})


@pytest.fixture(name="fresh", scope="module")
def _fresh():
    """The registration of the pair, without a cache."""
    return register(SUPPORT, QUERY)


@pytest.fixture(name="folder")
def _folder(tmp_path, fresh, monkeypatch):
    """A cache with the pair's file, written without registering again."""
    with monkeypatch.context() as patch:
        patch.setattr(registration_cache, "register", lambda *_, **__: fresh)
        run(tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(name="calls")
def _calls(monkeypatch, fresh):
    """The registrations that are computed."""
    calls = []
    monkeypatch.setattr(registration_cache, "register", lambda *task, **_: calls.append(task) or fresh)
    return calls


def test_a_cached_registration_equals_a_fresh_one_bit_by_bit(folder, fresh, calls):
    assert len(fresh.transform.bspline) > 100
    assert run(folder) == [fresh]
    assert calls == []
    assert [path.suffix for path in folder.iterdir()] == [".json"]


def test_two_processes_give_the_same_bits_in_the_pairs_order(tmp_path, fresh):
    pairs = [(QUERY, SUPPORT), (SUPPORT, QUERY)]
    result = run(tmp_path / "cache", pairs, n_workers=2)
    assert result[1] == fresh
    assert result[0] != fresh
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"min_jacobian": ', '"min_jacobian": 1', 1),
        lambda text: text.replace("5", "6", 1),
        lambda text: json.dumps({**json.loads(text), "registration": {}}),
        lambda text: text.replace('"quality"', '"qualitx"'),
    ],
)
def test_a_damaged_file_is_computed_again_and_replaced(folder, fresh, calls, damage):
    (path,) = folder.iterdir()
    whole = path.read_text()
    path.write_text(damage(whole))
    with pytest.warns(Remark, match=f"{path.name}: damaged"):
        assert run(folder) == [fresh]
    assert len(calls) == 1
    assert path.read_text() == whole


def test_a_file_under_anothers_name_is_not_trusted(folder, calls):
    (path,) = folder.iterdir()
    path.rename(cache_path(folder, QUERY, SUPPORT))
    with pytest.warns(Remark, match="damaged"):
        run(folder, [(QUERY, SUPPORT)])
    assert len(calls) == 1


def changed_voxel(scan):
    voxels = scan.voxels.copy()
    voxels[3, 4, 5] += 1e-6
    return scan._replace(voxels=voxels)


def moved(scan):
    origin_mm = (scan.geometry.origin_mm[0] + 1e-4, *scan.geometry.origin_mm[1:])
    return scan._replace(geometry=replace(scan.geometry, origin_mm=origin_mm))


@pytest.mark.parametrize(
    "pair",
    [
        (changed_voxel(SUPPORT), QUERY),
        (SUPPORT, changed_voxel(QUERY)),
        (moved(SUPPORT), QUERY),
        (SUPPORT, moved(QUERY)),
        (QUERY, SUPPORT),
    ],
)
def test_changed_input_is_registered_again(folder, calls, pair):
    run(folder, [pair])
    assert len(calls) == 1
    assert len(list(folder.iterdir())) == 2


def test_a_new_version_of_the_algorithm_registers_again(folder, calls, monkeypatch):
    monkeypatch.setattr(registration_cache, "ALGORITHM_VERSION", 0)
    run(folder)
    assert len(calls) == 1


def test_each_measure_has_a_file_of_its_own(folder, fresh):
    (other,) = run(folder, measure=MUTUAL_INFORMATION)
    assert other == register(SUPPORT, QUERY, measure=MUTUAL_INFORMATION)
    assert other != fresh
    assert len(list(folder.iterdir())) == 2
    assert run(folder) == [fresh]


def test_names_and_dtypes_change_nothing(folder, calls):
    same = ScanVolume(SUPPORT.voxels.astype(np.float64), SUPPORT.geometry, name="another")
    run(folder, [(same, QUERY)])
    assert calls == []


def test_a_bad_scan_is_refused_before_anything_is_registered(tmp_path, calls):
    bad = QUERY._replace(voxels=np.zeros(SHAPE), name="scan 3")
    with pytest.raises(UserError, match="scan 3: volume: must not be constant"):
        run(tmp_path, [(SUPPORT, QUERY), (SUPPORT, bad)])
    assert calls == []


def test_no_pairs_give_no_registrations(tmp_path):
    assert run(tmp_path / "cache", []) == []
