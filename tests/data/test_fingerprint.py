"""Fingerprints say what a dataset holds and differ exactly when its content does."""

import gzip
import json
import os
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from data.datasets import find_spec
from data.fingerprint import (
    Fingerprint,
    OrganExtent,
    SupervoxelSizes,
    fingerprint_hash,
    make_fingerprint,
    read_fingerprint,
    write_fingerprint,
)
from data.layout import DatasetLayout
from util.errors import UserError
from util.io.image_io import Geometry, read_volume, write_volume

SHAPE = (4, 6, 5)
GEOMETRY = Geometry(SHAPE, (7.7, 1.25, 1.25), (-10.0, 20.0, 5.0), (1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))


def write_scan(layout, scan_id, *, dtype=np.int16, label_dtype=np.uint8):
    rng = np.random.default_rng(scan_id)
    write_volume(layout.image_path(scan_id), rng.integers(0, 900, SHAPE).astype(dtype), GEOMETRY)
    label_map = np.zeros(SHAPE, label_dtype)
    label_map[1:3, 2:4, 1:5] = 1
    label_map[3, 0, scan_id % 5] = 4
    write_volume(layout.label_path(scan_id), label_map, GEOMETRY)
    supervoxels = np.zeros(SHAPE, np.int32)
    supervoxels[0, :2], supervoxels[1:, :, 0], supervoxels[3, 5, 4] = 1, 2, 5
    write_volume(layout.supervoxel_path(scan_id), supervoxels, GEOMETRY)


def make_dataset(folder, **options):
    layout = DatasetLayout(find_spec("CHAOST2"), folder, folder, 5000)
    for scan_id in (10, 3):
        write_scan(layout, scan_id, **options)
    return layout


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A dataset that is only copied: each volume that is written waits for the disk."""
    return make_dataset(tmp_path_factory.mktemp("template"))


def copy_of(template, folder):
    shutil.copytree(template.data_dir, folder)
    return replace(template, data_dir=folder, supervoxel_dir=folder)


@pytest.fixture(name="layout")
def _layout(template, tmp_path):
    return copy_of(template, tmp_path / "a")


def test_a_scan_is_described_by_hand(layout):
    image = np.arange(120, dtype=np.int16).reshape(SHAPE)
    write_volume(layout.image_path(3), image, GEOMETRY)
    fingerprint = make_fingerprint(layout)
    assert fingerprint.dataset == "CHAOST2"
    assert [scan.scan_id for scan in fingerprint.scans] == [3, 10]
    scan = fingerprint.scans[0]
    assert (scan.shape, scan.spacing_mm, scan.name) == (SHAPE, (7.7, 1.25, 1.25), None)
    assert scan.percentiles == pytest.approx((0.595, 59.5, 118.405))
    assert scan.organs == (
        OrganExtent(1, "liver", 16, 2),
        OrganExtent(2, "right kidney", 0, 0),
        OrganExtent(3, "left kidney", 0, 0),
        OrganExtent(4, "spleen", 1, 1),
    )
    assert scan.supervoxels == SupervoxelSizes(5000, 3, 1, 10.0, 18, round(29 / 120, 4))
    assert scan.preparation_version is None


def test_supervoxels_with_very_large_ids_are_counted_alike(layout):
    supervoxels, geometry = read_volume(layout.supervoxel_path(3))
    write_volume(layout.supervoxel_path(3), supervoxels * 100_000_000, geometry)
    first, second = make_fingerprint(layout).scans
    assert first.supervoxels == second.supervoxels


def test_scans_without_labels_or_supervoxels_are_described_too(layout):
    layout.label_path(3).unlink()
    layout.supervoxel_path(3).unlink()
    write_volume(layout.supervoxel_path(10), np.zeros(SHAPE, np.int32), GEOMETRY)
    first, second = make_fingerprint(layout).scans
    assert (first.organs, first.supervoxels, first.label_hash) == (None, None, None)
    assert second.supervoxels == SupervoxelSizes(5000, 0, 0, 0.0, 0, 0.0)


def test_names_come_from_the_dataset_s_own_list(layout, template):
    cases = {"dataset": "CHAOST2", "scans": {"3": "Fall 3 ä"}}
    (layout.data_dir / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    plain = make_fingerprint(template)
    named = make_fingerprint(layout)
    assert [scan.name for scan in named.scans] == ["Fall 3 ä", None]
    assert named.hash == plain.hash
    (layout.data_dir / "cases.json").write_text(json.dumps({**cases, "dataset": "SABS"}))
    assert [scan.name for scan in make_fingerprint(layout).scans] == [None, None]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"dataset": "CHAOST2", "scans": 3}'])
def test_another_s_list_of_names_is_passed_over(layout, text):
    (layout.data_dir / "cases.json").write_text(text)
    assert [scan.name for scan in make_fingerprint(layout).scans] == [None, None]


def test_the_hash_does_not_depend_on_how_the_data_are_stored(layout, tmp_path):
    expected = make_fingerprint(layout)
    other = make_dataset(tmp_path / "b", dtype=np.float64, label_dtype=np.int32)
    # Another order of files, other times, another compression, and another writer.
    os.utime(other.image_path(3), (1, 1))
    path = other.label_path(10)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    voxels, affine = read_volume(other.image_path(10))[0], nibabel.load(other.image_path(10)).affine
    nibabel.save(
        nibabel.Nifti1Image(voxels.transpose(2, 1, 0).astype(np.int16), affine), other.image_path(10)
    )
    assert make_fingerprint(other) == expected
    assert make_fingerprint(other, n_workers=1) == make_fingerprint(other, n_workers=3) == expected
    assert fingerprint_hash(reversed(expected.scans)) == expected.hash


def test_supervoxels_do_not_change_the_hash(layout):
    expected = make_fingerprint(layout).hash
    write_volume(layout.supervoxel_path(3), np.ones(SHAPE, np.int32), GEOMETRY)
    assert make_fingerprint(layout).hash == expected


def _change_a_voxel(layout):
    image, geometry = read_volume(layout.image_path(3))
    image[2, 2, 2] += 1
    write_volume(layout.image_path(3), image, geometry)


def _change_a_label(layout):
    label_map, geometry = read_volume(layout.label_path(3))
    label_map[label_map == 1] = 2
    write_volume(layout.label_path(3), label_map, geometry)


def _move_the_grid(layout):
    for path in (layout.image_path(3), layout.label_path(3)):
        write_volume(path, read_volume(path)[0], replace(GEOMETRY, origin_mm=(-10.0, 20.0, 5.1)))


def _renumber(layout):
    for path in (layout.image_path, layout.label_path):
        path(10).rename(path(11))


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (_change_a_voxel, [3]),
        (_change_a_label, [3]),
        (_move_the_grid, [3]),
        (_renumber, [10, 11]),
        (lambda layout: layout.label_path(3).unlink(), [3]),
        (lambda layout: write_scan(layout, 12), [12]),
    ],
)
def test_the_hash_changes_with_the_content_and_those_of_the_scans_too(layout, change, changed):
    before = make_fingerprint(layout)
    change(layout)
    after = make_fingerprint(layout)
    assert after.hash != before.hash
    scans_before, scans_after = (
        {(scan.scan_id, scan.image_hash, scan.label_hash) for scan in result.scans}
        for result in (before, after)
    )
    assert sorted({scan_id for scan_id, *_ in scans_before ^ scans_after}) == changed


def test_a_fingerprint_is_read_as_it_was_written(layout):
    assert read_fingerprint(layout) is None
    written = write_fingerprint(layout)
    assert isinstance(written, Fingerprint)
    assert read_fingerprint(layout) == written == make_fingerprint(layout)
    text = (layout.data_dir / "fingerprint.json").read_text()
    write_fingerprint(layout)
    assert (layout.data_dir / "fingerprint.json").read_text() == text


def test_a_fingerprint_of_another_dataset_or_version_is_none(layout):
    write_fingerprint(layout)
    assert read_fingerprint(replace(layout, spec=find_spec("SABS"))) is None
    path = layout.data_dir / "fingerprint.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "fingerprint_version": 0}))
    assert read_fingerprint(layout) is None


def _drop(fields, name):
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], ""),
        (lambda text: "", "Expecting value"),
        (lambda text: "[]", ""),
        (lambda text: "[" * 100_000, "recursion"),
        (lambda text: json.dumps({**json.loads(text), "fingerprint_version": "1"}), "must be a number"),
        (lambda text: json.dumps({**json.loads(text), "dataset": None}), "dataset a string"),
        (lambda text: json.dumps(_drop(json.loads(text), "scans")), "'scans' is missing"),
        (lambda text: json.dumps({**json.loads(text), "scans": [1]}), ""),
        (lambda text: json.dumps({**json.loads(text), "scans": None}), ""),
        (lambda text: json.dumps({**json.loads(text), "hash": "0"}), "its hash is not that of its scans"),
        (lambda text: text.replace('"scan_id": 3', '"scan_id": 4'), "its hash is not that of its scans"),
        (lambda text: text.replace('"scan_id": 3', '"scan_id": "3"'), ""),
        (lambda text: text.replace('"n_slices"', '"n_slice"', 1), "n_slice"),
        (lambda text: text.replace('"image_hash"', '"image"', 1), "image"),
        (lambda text: text.replace("CHAOST2", "\udcff"), ""),
    ],
)
def test_a_damaged_file_is_named_in_one_line(layout, damage, reason):
    write_fingerprint(layout)
    path = layout.data_dir / "fingerprint.json"
    path.write_text(damage(path.read_text()), errors="surrogateescape")
    with pytest.raises(UserError, match=rf"fingerprint\.json: damaged \(.*{reason}.*\); delete it") as caught:
        read_fingerprint(layout)
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_file_s_place_is_named(layout):
    (layout.data_dir / "fingerprint.json").mkdir()
    with pytest.raises(UserError, match=r"fingerprint\.json: damaged"):
        read_fingerprint(layout)


def test_a_dataset_whose_files_are_damaged_is_refused_and_nothing_written(layout):
    content = layout.label_path(10).read_bytes()
    layout.label_path(10).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"label_10\.nii\.gz: cannot be read"):
        write_fingerprint(layout)
    assert not (layout.data_dir / "fingerprint.json").exists()
