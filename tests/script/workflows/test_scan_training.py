"""No network yet: one command trains it on the scans themselves, and later calls find it."""

import json
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import prediction
import training
from data.phantom.scans import PhantomSettings, render_scan
from script.workflows import scan_training
from script.workflows.scan_training import TrainingRequest, run_training, train_on_scans
from util.config.command_line import run_command_line
from util.engine.signals import SignalHandler
from util.errors import Stopped, UserError
from util.io.image_io import write_volume

WORDS = ["support_image=a.nii.gz", "support_label=a_seg.nii.gz", "query=scans", "out=masks", "device=cpu"]
WORDS += ["modality=MR", "minutes=0.01", "guide=none", "labels=1:liver"]
FOLDER = Path("masks/work/MR_cpu_0.01min")


@pytest.fixture(name="trainings")
def _trainings(tmp_path, monkeypatch, narrow_encoder, switches_restored):
    """A folder with one annotated scan and two others; the settings of each training that runs here."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        image, label_map, geometry = render_scan(number, PhantomSettings(image_size_px=48, seed=5))
        write_volume(
            tmp_path / ("scans/a.nii.gz" if number == 0 else f"scans/{number}.nii.gz"), image, geometry
        )
        if number == 0:
            write_volume(tmp_path / "a_seg.nii.gz", label_map, geometry)
    (tmp_path / "scans/a.nii.gz").rename(tmp_path / "a.nii.gz")
    done = []

    def run(words, **_):
        done.append(words)
        assert run_command_line(training.experiment, [*words, "model.feature_width=8"]) == 0

    monkeypatch.setattr(scan_training, "run_training", run)
    monkeypatch.setattr(scan_training, "MIN_STEPS", 3)
    monkeypatch.setattr(scan_training, "TIMED_STEPS", {"cpu": 2})
    return done


def _value(words, key):
    [value] = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return value


def test_one_command_trains_and_segments_and_the_next_one_uses_the_network(trainings, tmp_path, capsys):
    assert prediction.main(WORDS) == 0
    out = capsys.readouterr().out
    assert "no network given: one is trained on 3 scans, without labels" in out
    assert re.search(r"training: 2 steps and 1 of adaptation to the supports(, 1 of a U-Net)?, about", out)
    assert len(list((FOLDER.parent / "adapted").glob("unet_*.pt"))) == 1
    assert "adapting to a.nii.gz: 1 steps in" in out
    assert "segmentation after it: about 0." in out
    assert "minutes: leaves time for 3 steps, and fewer than 500 teach so little" in out
    assert "targets in 3 scans" in out
    assert {path.name for path in Path("masks").glob("*.nii.gz")} == {"1.nii.gz", "2.nii.gz"}
    assert [_value(words, "n_steps") for words in trainings] == ["2", "2"]
    assert {_value(words, "image_size_px") for words in trainings} == {"[48,48]"}
    assert all("recipe=strong" in words for words in trainings)
    assert not (FOLDER / "timing").exists()
    image, _, geometry = render_scan(3, PhantomSettings(image_size_px=48, seed=5))
    write_volume(tmp_path / "scans/3.nii.gz", image, geometry)
    assert prediction.main(WORDS) == 0
    assert len(trainings) == 2
    out = capsys.readouterr().out
    assert "the network of an earlier call is used" in out
    assert "1 of 4 scans are new or changed since its training; delete" in out
    assert (tmp_path / "masks/3.nii.gz").is_file()
    record = json.loads(Path("masks/prediction.json").read_text())
    run_dir = tmp_path / FOLDER / "runs/OwnScans/fold_0/training/1"
    assert record["snapshot"] == str(run_dir / "snapshots/snapshot_000002.pt")


@pytest.fixture(name="interrupted")
def _interrupted(tmp_path, monkeypatch):
    """A training, of which only the files count here, that was interrupted; settings of all that follow."""
    done = []

    def run(words, **_):
        done.append(words)
        if len(done) == 2:  # the first one is the timing
            raise Stopped(signal.SIGINT)
        run_dir = Path(_value(words, "path.log_dir")) / "OwnScans/fold_0/training/1"
        (run_dir / "snapshots").mkdir(parents=True)
        (run_dir / "info.json").write_text('{"training_seconds": 60.0}')
        (run_dir / f"snapshots/snapshot_{int(_value(words, 'n_steps')):06d}.pt").touch()

    monkeypatch.setattr(scan_training, "run_training", run)
    monkeypatch.setattr(scan_training, "_prepare", lambda *_, **__: None)
    monkeypatch.setattr(scan_training, "_training_words", lambda *_: [])
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).touch()
    request = TrainingRequest([tmp_path / "a.nii"], np.ones((1, 1, 1)), "MR", 20.0, "cpu")
    with pytest.raises(Stopped) as stopped:
        train_on_scans(tmp_path, request)
    assert stopped.value.hint == "the same command resumes the training"
    return request, done


def test_an_interrupted_training_resumes_with_its_number_of_steps(interrupted, tmp_path):
    request, done = interrupted
    planned = json.loads((tmp_path / "MR_cpu_20min/training.json").read_text())["n_steps"]
    assert planned > 100
    snapshot = train_on_scans(tmp_path, request).snapshot
    [words] = done[2:]  # no timing
    assert _value(words, "n_steps") == str(planned)
    assert _value(words, "resume") == "latest"
    assert snapshot.name == f"snapshot_{planned:06d}.pt"


def test_a_network_without_time_for_adaptation_is_reused_with_a_remark(interrupted, tmp_path):
    request, _ = interrupted  # without adaptation
    train_on_scans(tmp_path, request)
    with pytest.warns(UserWarning, match="is not adapted to the supports.* adaptation=600"):
        assert train_on_scans(tmp_path, replace(request, with_adaptation=True)).adaptation_steps == 0


def test_an_interrupted_training_on_other_scans_is_planned_again(interrupted, tmp_path):
    request, done = interrupted
    train_on_scans(tmp_path, replace(request, sources=[*request.sources, tmp_path / "b.nii"]))
    timing, _ = done[2:]
    assert _value(timing, "n_steps") == "10"


# 1 s a step and 8 s to start: of the `ends` - 120 - 8 s that are left, 90 % are 252 or 1800 s.
@pytest.mark.parametrize(
    ("with_adaptation", "unet_step_s", "ends", "steps"),
    [
        (False, 0.5, 408.0, (252, 0)),
        (True, 0.0, 408.0, (126, 126)),
        (True, 0.0, 2128.0, (1200, 600)),
        (True, 0.5, 408.0, (102, 100)),
        (True, 0.5, 2128.0, (900, 600)),
    ],
)
def test_the_steps_fill_the_time_that_is_left(
    tmp_path, monkeypatch, capsys, with_adaptation, unet_step_s, ends, steps
):
    clock = iter([100.0, 118.0, 120.0])  # seconds: timing starts, it ends, a scan was segmented
    run_dir = tmp_path / "timing/OwnScans/fold_0/training/1"

    def run(words, **_):
        run_dir.mkdir(parents=True)
        (run_dir / "info.json").write_text('{"training_seconds": 10.0}')

    monkeypatch.setattr(scan_training, "run_training", run)
    monkeypatch.setattr(scan_training.time, "monotonic", lambda: next(clock))
    used = []
    options = {"n_queries": 60, "with_adaptation": with_adaptation}
    request = TrainingRequest(
        *([], np.ones(1), "MR", 5.0, "cpu"),
        time_scan=lambda path: used.append(path) or 1.5,
        time_unet_step=lambda path: unet_step_s,
        **options,
    )
    assert scan_training._plan_steps(tmp_path, [], request, n_timed=10, ends=ends) == steps
    assert used == [run_dir / "snapshots/snapshot_000010.pt"]
    assert "segmentation after it: about 1.5 min (1.5 s a scan)" in capsys.readouterr().out


@pytest.fixture(name="program")
def _program(tmp_path, monkeypatch):
    """Replace training.py by a program of one's own."""
    monkeypatch.setattr(scan_training, "REPOSITORY", tmp_path)
    return lambda text: (tmp_path / "training.py").write_text(text)


def test_the_training_command_is_found():
    with pytest.raises(UserError, match="failed with exit code 2"):  # as its settings are wrong
        run_training(["n_steps=none"])


def test_a_failed_training_ends_the_command(program):
    program("import sys; sys.exit(0 if sys.argv[1:] == ['with', 'n_steps=1'] else 3)")
    run_training(["n_steps=1"])
    with pytest.raises(UserError, match="failed with exit code 3"):
        run_training(["n_steps=2"])


def test_the_output_of_a_timed_training_is_shown_only_if_it_fails(program, capfd):
    program("import sys; print('10 of 10'); print('bad', file=sys.stderr); sys.exit(int(sys.argv[2]))")
    run_training(["0"], shows_output=False)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match="exit code 2"):
        run_training(["2"], shows_output=False)
    assert {"10 of 10", "bad"} <= set(capfd.readouterr().err.splitlines())


def test_a_signal_lets_the_training_save_a_checkpoint(program, tmp_path):
    program(
        "import os, pathlib, signal, sys, time\n"
        "def save(*_):\n    pathlib.Path(sys.argv[2]).write_text('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(60)\n"
    )
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(Stopped), SignalHandler():
        run_training([str(tmp_path / "checkpoint")])
    assert (tmp_path / "checkpoint").read_text() == "saved"
