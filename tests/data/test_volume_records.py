"""A record says whether a scan's volumes are what its raw files and the parameters would give."""

import os
from dataclasses import replace

import pytest

from data import file_states, volume_records
from data.datasets import find_spec
from data.file_states import file_state
from data.layout import DatasetLayout
from data.raw.raw_scans import RawScan
from data.transforms import Preparation
from data.volume_records import (
    ScanRecord,
    hash_raw_files,
    list_parameters,
    list_recorded_ids,
    read_scan_record,
    scan_record_path,
    volumes_are_current,
    write_scan_record,
)
from util.errors import UserError

SPEC = find_spec("CMR")
PREPARATION = Preparation(clip_percentile=99.5, spacing_mm=(8.0, 1.0, 1.0), size_px=(64, 64))
PARAMETERS = list_parameters(SPEC, PREPARATION)


@pytest.fixture(name="layout")
def _layout(tmp_path):
    return DatasetLayout(SPEC, tmp_path / "prepared", tmp_path / "prepared", 1000)


@pytest.fixture(name="scan")
def _scan(tmp_path, layout):
    """A scan whose volumes, here any bytes, were just written with their record."""
    files = {kind: tmp_path / "raw" / f"{kind}.nii.gz" for kind in ("image", "label")}
    layout.volumes_dir.mkdir(parents=True)
    (tmp_path / "raw").mkdir()
    for kind, path in files.items():
        path.write_bytes(kind.encode())
    layout.image_path(7).write_bytes(b"prepared image")
    layout.label_path(7).write_bytes(b"prepared label")
    scan = RawScan(7, "patient7", (files["image"],), (files["label"],))
    states = [file_state(path) for path in (layout.image_path(7), layout.label_path(7))]
    record = ScanRecord(PARAMETERS, scan.name, hash_raw_files(scan), *states)
    write_scan_record(scan_record_path(layout, 7), record)
    return scan


def current(layout, scan, parameters=PARAMETERS):
    return volumes_are_current(layout, 7, parameters, scan=scan)


def test_a_record_is_read_back_as_it_was_written(layout, scan):
    record = read_scan_record(scan_record_path(layout, 7))
    assert record.parameters == PARAMETERS
    assert record.name == "patient7"
    assert record.raw == (
        ("image", "image.nii.gz", file_state(scan.image_files[0])),
        ("label", "label.nii.gz", file_state(scan.label_files[0])),
    )
    assert (record.image, record.label_map) == tuple(
        file_state(path) for path in (layout.image_path(7), layout.label_path(7))
    )


def test_unchanged_files_are_current_without_being_read(layout, scan, monkeypatch):
    monkeypatch.setattr(file_states, "file_state", lambda path: pytest.fail(f"{path} was read"))
    assert current(layout, scan)
    assert current(layout, None)


def test_a_moved_download_of_other_times_is_recognised_and_recorded(layout, scan, tmp_path, monkeypatch):
    moved = (tmp_path / "raw").rename(tmp_path / "elsewhere")
    scan = RawScan(7, "patient7", (moved / "image.nii.gz",), (moved / "label.nii.gz",))
    for path in moved.iterdir():
        os.utime(path, ns=(5, 5))
    assert current(layout, scan)
    monkeypatch.setattr(file_states, "file_state", lambda path: pytest.fail(f"{path} was read again"))
    assert current(layout, scan)


def test_times_that_cannot_be_recorded_do_no_harm(layout, scan, monkeypatch):
    def refuse(path, record):
        raise UserError("read-only")

    os.utime(scan.image_files[0], ns=(5, 5))
    monkeypatch.setattr(volume_records, "write_scan_record", refuse)
    assert current(layout, scan)


CHANGES = {
    "other raw image": lambda layout, scan: scan.image_files[0].write_bytes(b"imagE"),
    "other raw label": lambda layout, scan: scan.label_files[0].write_bytes(b"longer label"),
    "raw image gone": lambda layout, scan: scan.image_files[0].unlink(),
    "other volume": lambda layout, scan: layout.image_path(7).write_bytes(b"prepared imagE"),
    "other label map": lambda layout, scan: layout.label_path(7).write_bytes(b""),
    "volume gone": lambda layout, scan: layout.image_path(7).unlink(),
    "label map gone": lambda layout, scan: layout.label_path(7).unlink(),
    "record gone": lambda layout, scan: scan_record_path(layout, 7).unlink(),
    **{
        f"record {text!r}": lambda layout, scan, text=text: scan_record_path(layout, 7).write_text(text)
        for text in ("", "{", "[]", "null", "{}", '{"recipe": {}, "name": "", "raw": [1]}')
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_triggers_a_rebuild(layout, scan, change):
    change(layout, scan)
    assert not current(layout, scan)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_files": ()},
        {"label_files": ()},
        {"image_files": ("label",), "label_files": ("image",)},
    ],
)
def test_other_raw_files_trigger_a_rebuild(layout, scan, changes):
    by_name = {"image": scan.image_files[0], "label": scan.label_files[0]}
    changed = {role: tuple(by_name[name] for name in names) for role, names in changes.items()}
    assert not current(layout, replace(scan, **changed))


def test_a_scan_without_labels_is_current_as_long_as_there_is_no_label_map(layout, scan):
    path = scan_record_path(layout, 7)
    unlabelled = replace(scan, label_files=())
    write_scan_record(path, replace(read_scan_record(path), raw=hash_raw_files(unlabelled), label_map=None))
    assert not current(layout, unlabelled)
    layout.label_path(7).unlink()
    assert current(layout, unlabelled)


@pytest.mark.parametrize(
    ("spec", "preparation"),
    [
        (SPEC, replace(PREPARATION, size_px=(64, 65))),
        (SPEC, replace(PREPARATION, spacing_mm=None)),
        (replace(SPEC, labels={1: "LV myocardium"}), PREPARATION),
        (replace(SPEC, name="OTHER"), PREPARATION),
    ],
)
def test_other_parameters_trigger_a_rebuild(layout, scan, spec, preparation):
    assert not current(layout, scan, list_parameters(spec, preparation))


def test_organs_of_other_names_do_not(layout, scan):
    renamed = replace(SPEC, labels=dict.fromkeys(SPEC.labels, "organ"))
    assert current(layout, scan, list_parameters(renamed, PREPARATION))


def test_another_version_of_the_code_triggers_a_rebuild(layout, scan, monkeypatch):
    monkeypatch.setattr(volume_records, "PREPARATION_VERSION", volume_records.PREPARATION_VERSION + 1)
    assert not current(layout, scan, list_parameters(SPEC, PREPARATION))


def test_recorded_ids_are_listed_in_order(layout, scan):
    for name in ("scan_12.record.json", "scan_2.record.json", "scan_x.record.json", "summary.record.json"):
        (layout.volumes_dir / name).touch()
    assert list_recorded_ids(layout) == [2, 7, 12]
    assert list_recorded_ids(replace(layout, data_dir=layout.data_dir / "gone")) == []
