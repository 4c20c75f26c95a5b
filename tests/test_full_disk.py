"""A disk that fills up while a training saves: what was there survives, and one line says what happened."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import training
from tests.weights import assert_equal_weights, final_weights
from util.config.command_line import run_command_line
from util.engine.checkpoints import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.usefixtures("narrow_encoder")

STEPS = ("n_steps=5", "save_snapshot_every=5", "checkpoint_minutes=0")
SMALL_MB, LARGE_MB = 3, 15  # a checkpoint of the tiny network takes 1.3 MB


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path):
    """Mount a small file system in memory; skips where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or _mount(folder, SMALL_MB):
        pytest.skip("mounting a file system takes another user")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder, size_mb, *options):
    joined = ",".join([f"size={size_mb}m", *options])
    command = ["mount", "-t", "tmpfs", "-o", joined, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode


def _fill(folder: Path) -> None:
    """Write until not a byte more goes."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _only_error(output: str) -> str:
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in output
    return line


def _run(overrides_for, log_dir, *words):
    return run_command_line(training.experiment, [*overrides_for(log_dir), *STEPS, *words])


def _final(log_dir, number):
    return final_weights(log_dir / "PHANTOM" / "fold_0" / "training" / str(number), 5)


def test_a_disk_too_small_keeps_earlier_checkpoints_and_the_training_resumes_later(
    overrides_for, small_disk, tmp_path, capsys
):
    assert _run(overrides_for, small_disk) == 2
    output = _only_error(capsys.readouterr().err)
    assert "checkpoint_000003.pt: cannot be written (" in output
    run_dir = small_disk / "PHANTOM" / "fold_0" / "training" / "1"
    assert [load_checkpoint(path).step for path in list_checkpoints(run_dir)] == [2, 1]
    assert not [path for path in run_dir.rglob("*") if ".tmp" in path.name]
    assert _mount(small_disk, LARGE_MB, "remount") == 0
    assert _run(overrides_for, small_disk, "resume=latest") == 0
    assert _run(overrides_for, tmp_path) == 0
    assert_equal_weights(_final(small_disk, 2), _final(tmp_path, 1))


def test_a_disk_without_a_byte_left_is_reported_in_one_line(overrides_for, small_disk, monkeypatch, capsys):
    real = training.take_step

    def take_step(config, model, state, batch, **kwargs):
        real(config, model, state, batch, **kwargs)
        if state.step == 2:
            _fill(small_disk)

    monkeypatch.setattr(training, "take_step", take_step)
    assert _run(overrides_for, small_disk) == 2
    output = _only_error(capsys.readouterr().err)
    assert "checkpoint_000002.pt: cannot be written (" in output
    run_dir = small_disk / "PHANTOM" / "fold_0" / "training" / "1"
    assert load_checkpoint(list_checkpoints(run_dir)[0]).step == 1
    os.unlink(small_disk / "filler")
    monkeypatch.undo()
    assert _mount(small_disk, LARGE_MB, "remount") == 0
    assert _run(overrides_for, small_disk, "resume=latest") == 0
