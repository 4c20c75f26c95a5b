"""A run's record is written whole, or the training continues without it."""

import json
import os
from datetime import datetime

import pytest

from util.engine import run_record
from util.engine.run_record import RunRecord, read_job_id
from util.errors import UserError

NOW = datetime(2026, 1, 2)


@pytest.fixture(name="record")
def _record(tmp_path):
    return RunRecord(tmp_path / "runs")


def start(record, number=None):
    experiment = {"base_dir": "", "sources": []}
    return record.started_event(experiment, "main", {}, NOW, {"seed": 7}, meta_info={}, _id=number)


def refuse(*_):
    raise UserError("file: cannot be written (No space left on device); free some space")


def test_a_run_records_its_configuration_and_outcome(record, tmp_path):
    assert start(record) == "1"
    assert start(RunRecord(tmp_path / "runs")) == "2"
    record.interrupted_event(NOW, "INTERRUPTED")
    folder = tmp_path / "runs" / "1"
    assert json.loads((folder / "config.json").read_text()) == {"seed": 7}
    assert json.loads((folder / "run.json").read_text())["status"] == "INTERRUPTED"
    assert not [path for path in folder.iterdir() if ".tmp" in path.name]


def test_a_failed_write_keeps_the_previous_content_and_warns_once(record, tmp_path, monkeypatch, capsys):
    start(record)
    before = (tmp_path / "runs" / "1" / "run.json").read_text()
    monkeypatch.setattr(run_record, "write_text", refuse)
    record.heartbeat_event({"a": 1}, "printed", NOW, None)
    record.completed_event(NOW, None)
    assert (tmp_path / "runs" / "1" / "run.json").read_text() == before
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {tmp_path}/runs/1: the run's record cannot be written (file: cannot be written (No space "
        "left on device); free some space)"
    ]


def test_a_run_that_cannot_be_recorded_leaves_no_folder(record, tmp_path, monkeypatch):
    monkeypatch.setattr(run_record, "write_text", refuse)
    with pytest.raises(UserError, match="No space left"):
        start(record)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_cannot_be_created_is_reported_with_its_key(record, monkeypatch):
    def mkdir(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(UserError, match=r"path\.log_dir: .*runs cannot be written \(No space left"):
        start(record)


def test_sources_are_stored_once_and_complete(record, tmp_path):
    source = tmp_path / "program.py"
    source.write_text("print(1)\n")
    stored = record.find_or_save(str(source), tmp_path / "_sources")
    assert stored.read_text() == "print(1)\n"
    assert record.find_or_save(str(source), tmp_path / "_sources") == stored
    source.write_text("print(2)\n")
    assert record.find_or_save(str(source), tmp_path / "_sources") != stored
    assert len(list((tmp_path / "_sources").iterdir())) == 2


def test_an_existing_run_is_not_overwritten_by_id(record, tmp_path):
    start(record)
    with pytest.raises(UserError, match=r"--id: .*runs/1 exists; leave --id out"):
        start(RunRecord(tmp_path / "runs"), "1")
    assert (tmp_path / "runs" / "1" / "config.json").is_file()
    assert start(RunRecord(tmp_path / "runs"), "7") == "7"


def test_a_run_that_never_started_records_no_end(record, monkeypatch, capsys):
    monkeypatch.setattr(run_record, "write_text", refuse)
    with pytest.raises(UserError, match="No space left"):
        start(record)
    record.failed_event(NOW, ["trace"])
    record.interrupted_event(NOW, "INTERRUPTED")
    assert capsys.readouterr().err == ""


def test_the_job_of_a_run_is_recorded(record, tmp_path, monkeypatch):
    assert read_job_id(tmp_path) is None
    monkeypatch.setattr(run_record, "JOB_ID", "a7")
    start(record)
    assert read_job_id(tmp_path / "runs" / "1") == "a7"
