"""Train a network on scans of one's own, without labels and within a time budget."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config_ssl_upload import REPOSITORY
from data.custom_spec import VOLUMES_FOLDER
from data.data_settings import PrepareConfig
from data.prediction_settings import MAX_ADAPTATION_STEPS
from data.prepare.dataset import prepare_dataset
from data.prepare.training_scans import DATASET_NAME, write_training_scans
from util.engine.runs import list_runs, snapshot_path
from util.errors import Stopped, UserError
from util.io.files import make_folder
from util.io.image_io import read_geometry
from util.io.json_files import read_json, write_json
from util.parallel.devices import choose_device
from util.remarks import remark

MIN_STEPS = 50
# A cautious bound: a network of 166 steps found nothing in synthetic scans; see docs/prediction.md.
FEW_STEPS = 500
# Steps that are timed first. On a GPU the first ones are slow, as kernels are loaded and chosen.
TIMED_STEPS = {"cpu": 10, "mps": 10, "cuda": 100}
MAX_SIDE_PX = {"cpu": 128, "mps": 128, "cuda": 256}
SHARE_OF_TIME = 0.9  # of what is left, as steps may become slower than the timed ones
# The network whose training from scratch bench/study measured, on short schedules like these.
NETWORK = ("recipe=strong", "model.encoder=resnet18", "model.encoder_weights=None", "model.feature_width=64")
_PLAN_JSON = "training.json"


@dataclass(frozen=True)
class TrainingRequest:
    """What a network is trained on, and for how long.

    Attributes:
        sources: scan files or DICOM folders, the annotated one first.
        mask: that scan's organs, `(Z, H, W)`, above 0.
        modality: "MR" or "CT".
        minutes: for preparation and training together.
        device: see `choose_device`.
        time_scan: takes a snapshot; returns the seconds that it takes to segment a scan, None if unknown.
        n_queries: number of scans to segment afterwards.
        with_adaptation: whether the time also serves to adapt the network to the supports.
        time_unet_step: takes a snapshot; returns the seconds of a step of the U-Net that trains for as many
            steps as the network adapts.
    """

    sources: Sequence[Path]
    mask: np.ndarray
    modality: str
    minutes: float
    device: str
    time_scan: Callable[[Path], float | None] = lambda snapshot: None
    n_queries: int = 0
    with_adaptation: bool = False
    time_unet_step: Callable[[Path], float] = lambda snapshot: 0.0


@dataclass(frozen=True)
class TrainedOnScans:
    """A network that was trained on scans.

    Attributes:
        snapshot: its file.
        adaptation_steps: that its time budget leaves for the adaptation to the supports.
    """

    snapshot: Path
    adaptation_steps: int


@dataclass(frozen=True)
class _Plan:
    """The training that a folder holds.

    Attributes:
        scans: path, time of last change and size of each scan.
        n_steps: of the training.
        adaptation_steps: of the adaptation that follows it.
    """

    scans: list[list[Any]]
    n_steps: int
    adaptation_steps: int = 0


def train_on_scans(work: Path, request: TrainingRequest, *, progress: bool = True) -> TrainedOnScans:
    """Train a network on scans, or find the one of an earlier call.

    An interrupted training resumes. One that is finished serves for further scans, too.

    Args:
        work: folder of the prepared scans and of the training's runs.
        request: what to train on, and for how long.
        progress: show progress bars.

    Raises:
        UserError: scans cannot be prepared, a folder cannot be written, or the training failed.
        Stopped: a signal arrived; the training saved a checkpoint.
    """
    started = time.monotonic()
    kind = choose_device(request.device).type
    folder = work.resolve() / f"{request.modality}_{kind}_{request.minutes:g}min"
    make_folder(folder, key="work")
    scans = [_stamp(path) for path in request.sources]
    plan = _read_plan(folder)
    snapshot = plan and _find_trained(folder, plan)
    if snapshot:
        _describe_reuse(folder, plan, scans, with_adaptation=request.with_adaptation)
        return TrainedOnScans(snapshot, plan.adaptation_steps)
    _prepare(folder, request, progress=progress)
    words = _training_words(folder, request.device, kind)
    if plan is None or plan.scans != scans:
        ends = started + 60 * request.minutes
        plan = _Plan(scans, *_plan_steps(folder, words, request, n_timed=TIMED_STEPS[kind], ends=ends))
        shutil.rmtree(folder / "runs", ignore_errors=True)  # unfinished, on other scans
        write_json(folder / _PLAN_JSON, asdict(plan), indent=2)
    try:
        run_training([*words, f"n_steps={plan.n_steps}", f"path.log_dir={folder / 'runs'}", "resume=latest"])
    except Stopped as stopped:
        raise Stopped(stopped.number, "the same command resumes the training") from stopped
    return TrainedOnScans(_find_trained(folder, plan), plan.adaptation_steps)


def run_training(words: Sequence[str], *, shows_output: bool = True) -> None:
    """Run `training.py` in a separate process; raises `UserError` if it fails.

    Args:
        words: settings, as on its command line.
        shows_output: False shows what it prints only if it fails.
    """
    with tempfile.TemporaryFile() if not shows_output else nullcontext() as output:
        # In a separate session, Ctrl-C reaches this process alone, which then lets the training checkpoint.
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "training.py"), "with", *words],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            stdout=output,
            stderr=output,
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if code and output is not None:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace"))
    if code:
        raise UserError(f"the training on your scans failed with exit code {code}, for the reason above")


def _prepare(folder: Path, request: TrainingRequest, *, progress: bool) -> None:
    """Make prepared volumes and supervoxels, as `script/prepare.sh` does."""
    print(f"no network given: one is trained on {len(request.sources)} scans, without labels", flush=True)
    raw = folder / "raw"
    unusable = write_training_scans(raw, request.sources, request.mask, modality=request.modality)
    for fault in unusable.values():
        remark(f"not trained on: {fault}")
    config = PrepareConfig(dataset=DATASET_NAME, raw=str(raw), data_dir=str(folder / "data"))
    prepare_dataset(config, progress=progress)


def _training_words(folder: Path, device: str, kind: str) -> list[str]:
    """Return the settings of the training, but for its length and folder."""
    side_px = read_geometry(folder / "data" / VOLUMES_FOLDER / "image_0.nii.gz").shape[1]
    side_px = min(side_px, MAX_SIDE_PX[kind])
    words = [f"dataset={DATASET_NAME}", "eval_fold=0", *NETWORK, f"image_size_px=[{side_px},{side_px}]"]
    return [
        *words,
        f"device={device}",
        f"num_workers={4 if kind == 'cuda' else 0}",
        f"path.OWN.data_dir={folder / 'data'}",
    ]


def _plan_steps(
    folder: Path, words: Sequence[str], request: TrainingRequest, *, n_timed: int, ends: float
) -> tuple[int, int]:
    """Time a few steps, and return how many of training and of adaptation fit into the time that is left.

    The network of these steps segments a scan, to tell how long segmentation will take.
    """
    timing, started = folder / "timing", time.monotonic()
    shutil.rmtree(timing, ignore_errors=True)
    print(f"timing {n_timed} steps of training, and the segmentation of a scan", flush=True)
    run_training([*words, f"n_steps={n_timed}", f"path.log_dir={timing}"], shows_output=False)
    [run_dir] = list_runs(timing / DATASET_NAME / "fold_0" / "training")
    info = json.loads((run_dir / "info.json").read_text(encoding="utf-8"))
    step_s = info["training_seconds"] / n_timed
    start_s = time.monotonic() - started - info["training_seconds"]  # Python, PyTorch, scans
    snapshot = snapshot_path(run_dir, n_timed)
    scan_s = request.time_scan(snapshot)
    unet_step_s = request.time_unet_step(snapshot) if request.with_adaptation else 0.0
    shutil.rmtree(timing, ignore_errors=True)
    left_s = SHARE_OF_TIME * (ends - time.monotonic() - start_s)
    n_adaptation = 0
    if request.with_adaptation:
        n_fitting = int(left_s / (2 * step_s + unet_step_s))
        n_adaptation = min(max(n_fitting, MIN_STEPS // 2), MAX_ADAPTATION_STEPS)
    learning_s = n_adaptation * (step_s + unet_step_s)
    n_training = max(int((left_s - learning_s) / step_s), MIN_STEPS - n_adaptation)
    n_steps, adaptation = n_training + n_adaptation, ""
    if n_adaptation:
        adaptation = f" and {n_adaptation} of adaptation to the supports"
        adaptation += f", {n_adaptation} of a U-Net" if unet_step_s else ""
    print(
        f"training: {n_training} steps{adaptation}, about {(n_training * step_s + learning_s) / 60:.1f} min "
        f"({step_s:.2f} s a step)",
        flush=True,
    )
    if scan_s is not None:
        minutes = request.n_queries * scan_s / 60
        print(f"segmentation after it: about {minutes:.1f} min ({scan_s:.1f} s a scan)", flush=True)
    if n_steps < FEW_STEPS:
        remark(
            f"minutes: leaves time for {n_steps} steps, and fewer than {FEW_STEPS} teach so little that the "
            "network may worsen what registration gives; give more"
        )
    return n_training, n_adaptation


def _find_trained(folder: Path, plan: _Plan) -> Path | None:
    runs = list_runs(folder / "runs" / DATASET_NAME / "fold_0" / "training")
    snapshots = (snapshot_path(run_dir, plan.n_steps) for run_dir in runs)
    return next((path for path in snapshots if path.is_file()), None)


def _describe_reuse(
    folder: Path, plan: _Plan, scans: Sequence[Sequence[Any]], *, with_adaptation: bool
) -> None:
    print(f"the network of an earlier call is used: {folder}", flush=True)
    if with_adaptation and plan.adaptation_steps == 0:
        remark(
            "the network is not adapted to the supports, as that call left no time for it; set the steps, "
            f"as in adaptation={MAX_ADAPTATION_STEPS}"
        )
    n_new = sum(list(scan) not in plan.scans for scan in scans)
    if n_new:
        remark(
            f"{n_new} of {len(scans)} scans are new or changed since its training; delete {folder} to train "
            "on them, too"
        )


def _stamp(path: Path) -> list[Any]:
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return [str(path.resolve()), state.st_mtime_ns, state.st_size]


def _read_plan(folder: Path) -> _Plan | None:
    """Read what an earlier call trains; None if it did not get as far."""
    return read_json(folder / _PLAN_JSON, _Plan)
