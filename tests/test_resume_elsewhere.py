"""A training refuses to resume with other data, and warns about another environment."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import training
from util.config.command_line import run_command_line
from util.engine.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from util.engine.provenance import UNKNOWN, Provenance, check_provenance, describe_environment
from util.errors import UserError
from util.io.image_io import read_volume, write_volume

pytestmark = pytest.mark.usefixtures("narrow_encoder")

BEFORE = Provenance("a", {"torch": "2.9", "threads": 1})


def test_equal_provenance_gives_no_warning():
    assert check_provenance(BEFORE, BEFORE, allows_changes=False) == []


def test_unknown_data_are_not_compared():
    assert check_provenance(UNKNOWN, BEFORE, allows_changes=False) == []
    assert check_provenance(BEFORE, UNKNOWN, allows_changes=False) == []


def test_changed_data_are_refused_unless_allowed():
    other = replace(BEFORE, data="b")
    with pytest.raises(UserError, match="differ from those at the start of the training; restore them"):
        check_provenance(BEFORE, other, allows_changes=False)
    assert check_provenance(BEFORE, other, allows_changes=True) == [
        "warning: the volumes or supervoxels differ from those at the start of the training"
    ]


def test_changes_of_the_environment_are_named():
    now = replace(BEFORE, environment={"torch": "3.0", "threads": 2, "device": "cpu"})
    assert check_provenance(BEFORE, now, allows_changes=False) == [
        "warning: results will be equal within rounding only: started with torch 2.9, now 3.0; threads 1, "
        "now 2"
    ]


def test_the_environment_is_described():
    result = describe_environment(torch.device("cpu"))
    assert result["device"] == "cpu"
    assert result["threads"] == torch.get_num_threads()
    assert result["torch"] == torch.__version__.split("+")[0] or result["torch"] == torch.__version__
    assert result["processor"]


@pytest.fixture(name="stopped")
def _stopped(tiny_overrides, phantom_dir, tmp_path, monkeypatch):
    """Stop a training after its first step, on a copy of the data; return how to resume, and its folder."""
    data_dir = tmp_path / "data"
    real = training.take_step

    def take_step(config, model, state, batch, **options):
        real(config, model, state, batch, **options)
        os.kill(os.getpid(), signal.SIGTERM)

    words = [
        f"path.PHANTOM.data_dir={data_dir}" if word.startswith("path.PHANTOM.data_dir=") else word
        for word in tiny_overrides
    ]
    shutil.copytree(phantom_dir, data_dir)
    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", take_step)
        assert run_command_line(training.experiment, words) == 128 + signal.SIGTERM
    return [*words, "resume=latest"], tmp_path / "runs" / "PHANTOM" / "fold_0" / "training", data_dir


def _change_a_supervoxel(data_dir: Path) -> None:
    path = sorted(data_dir.glob("supervoxels_*/*.nii.gz"))[-1]
    path.with_name(path.name.replace(".nii.gz", ".record.json")).unlink()  # as if others had made it
    voxels, geometry = read_volume(path)
    changed = np.where(voxels == 1, 2, voxels)
    assert not np.array_equal(changed, voxels)
    write_volume(path, changed, geometry)


def test_resuming_with_changed_supervoxels_is_refused_unless_forced(stopped, capsys):
    words, folder, data_dir = stopped
    _change_a_supervoxel(data_dir)
    assert run_command_line(training.experiment, words) == 2
    output = capsys.readouterr().err.strip().splitlines()[-1]
    assert output == (
        "error: the volumes or supervoxels differ from those at the start of the training; restore them, or "
        "add resume_changed=True"
    )
    assert list_checkpoints(folder / "1")
    assert run_command_line(training.experiment, [*words, "resume_changed=True"]) == 0
    assert "warning: the volumes or supervoxels differ" in capsys.readouterr().out


def test_resuming_with_other_versions_is_warned_about(stopped, capsys):
    words, folder, _ = stopped
    checkpoint = load_checkpoint(list_checkpoints(folder / "1")[0])
    environment = {**checkpoint.origin["environment"], "torch": "1.0"}
    save_checkpoint(
        folder / "1", replace(checkpoint, origin={**checkpoint.origin, "environment": environment})
    )
    assert run_command_line(training.experiment, words) == 0
    assert "within rounding only: started with torch 1.0, now " in capsys.readouterr().out
