"""A training does not go on with other data, and says where other machinery may round otherwise."""

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
from util.engine.provenance import UNKNOWN, Origin, check_origin, describe_environment
from util.errors import UserError
from util.io.image_io import read_volume, write_volume

pytestmark = pytest.mark.usefixtures("narrow_encoder")

HERE = Origin("a", {"torch": "2.9", "threads": 1})


def test_the_same_data_and_machinery_are_not_remarked_on():
    assert check_origin(HERE, HERE, allows_changes=False) == []


def test_data_of_which_nothing_is_known_are_not_compared():
    assert check_origin(UNKNOWN, HERE, allows_changes=False) == []
    assert check_origin(HERE, UNKNOWN, allows_changes=False) == []


def test_other_data_are_refused_unless_changes_are_allowed():
    other = replace(HERE, data="b")
    with pytest.raises(UserError, match="not those that the training began with; restore them"):
        check_origin(HERE, other, allows_changes=False)
    assert check_origin(HERE, other, allows_changes=True) == [
        "warning: the volumes or supervoxels are not those that the training began with"
    ]


def test_other_machinery_is_named():
    now = replace(HERE, environment={"torch": "3.0", "threads": 2, "device": "cpu"})
    assert check_origin(HERE, now, allows_changes=False) == [
        "warning: equal within rounding only, for it began with torch 2.9, now 3.0; threads 1, now 2"
    ]


def test_the_environment_names_what_rounding_depends_on():
    found = describe_environment(torch.device("cpu"))
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["processor"]


@pytest.fixture(name="stopped")
def _stopped(tiny_overrides, phantom_dir, tmp_path, monkeypatch):
    """Stop a training after its first step, on a copy of the data; return how to go on, and its folder."""
    data_dir = tmp_path / "data"
    real = training.take_step

    def take_step(config, model, state, batch, **places):
        real(config, model, state, batch, **places)
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


def test_going_on_with_changed_supervoxels_is_refused_unless_asked_for(stopped, capsys):
    words, folder, data_dir = stopped
    _change_a_supervoxel(data_dir)
    assert run_command_line(training.experiment, words) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told == (
        "error: the volumes or supervoxels are not those that the training began with; restore them, or add "
        "resume_changed=True"
    )
    assert list_checkpoints(folder / "1")
    assert run_command_line(training.experiment, [*words, "resume_changed=True"]) == 0
    assert "warning: the volumes or supervoxels are not" in capsys.readouterr().out


def test_going_on_with_other_versions_is_remarked_on(stopped, capsys):
    words, folder, _ = stopped
    checkpoint = load_checkpoint(list_checkpoints(folder / "1")[0])
    environment = {**checkpoint.origin["environment"], "torch": "1.0"}
    save_checkpoint(
        folder / "1", replace(checkpoint, origin={**checkpoint.origin, "environment": environment})
    )
    assert run_command_line(training.experiment, words) == 0
    assert "warning: equal within rounding only, for it began with torch 1.0, now " in capsys.readouterr().out
