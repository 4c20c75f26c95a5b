"""Evaluate a trained network on the held-out fold.

Usage: `python validation.py with dataset=CHAOST2 eval_fold=0`. `bash script/evaluate.sh` does the same for
all folds, then sums them up with `python validation.py summarise`. Runs lie under
`runs/<dataset>/fold_<k>/evaluation/<number>`.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from config_ssl_upload import N_FOLDS, Config, ModelConfig, dataset_defaults, make_experiment, parse_config
from data.preparation import ensure_volumes
from dataloaders.evaluation_sets import (
    EvaluationScan,
    Job,
    check_support_position,
    find_left_out,
    load_evaluation_scan,
    plan_jobs,
    score_job,
)
from dataloaders.folds import fold_scan_ids, training_scan_ids
from dataloaders.volumes import load_scan
from models.encoder import calibrate_batchnorm
from models.few_shot_seg import FewShotSeg
from models.segmenters import CopySegmenter, CosineSegmenter, NetworkSegmenter, Segmenter
from training import choose_kernels, make_network, peak_memory_gb, phantom_settings
from util.checkpoints import Snapshot, current_versions, load_snapshot
from util.command_line import run_command_line
from util.devices import choose_device
from util.errors import UserError
from util.metrics import VolumeScore
from util.predictions import PredictionWriter
from util.progress import note_on_bar, progress_bar
from util.report import TRAINED, describe_scores, read_scores, summarise_scores, write_scores
from util.runs import find_snapshot, list_runs
from util.settings import default_values, parse_values, plain_values

CALIBRATION_SCANS, CALIBRATION_SLICES = 4, 64


def check_request(config: Config) -> None:
    """Check that device, snapshot and support scan are there, before a run."""
    choose_device(config.device)
    find_snapshot(config.fold_dir / "training", config.reload_model_path)
    is_phantom = config.dataset == "PHANTOM"
    scan_ids = range(config.phantom.n_scans) if is_phantom else config.layout.scan_ids()
    check_support_position(config.supp_idx, len(fold_scan_ids(scan_ids, config.eval_fold)))


experiment = make_experiment("evaluation", preflight=check_request)


@experiment.main
def main(_config: dict[str, Any], _run: Any) -> None:
    """Evaluate one fold."""
    if not _run.observers:
        raise UserError("evaluation keeps its tables in a run folder; leave out --unobserved")
    evaluate(parse_config(_config), Path(_run.observers[0].dir))


@experiment.command(unobserved=True)
def summarise(_config: dict[str, Any]) -> None:
    """Sum up the newest evaluation of every fold that has one."""
    config = parse_config(_config)
    scores: list[VolumeScore] = []
    missing = []
    for fold in range(N_FOLDS):
        runs = list_runs(replace(config, eval_fold=fold).fold_dir / "evaluation")
        newest = next((run / "scores.json" for run in runs if (run / "scores.json").is_file()), None)
        if newest is None:
            missing.append(fold)
        else:
            print(f"fold {fold}: {newest}")
            scores += read_scores(newest)
    if not scores:
        raise UserError(f"{config.runs_dir}: holds no evaluation; run bash script/evaluate.sh first")
    if missing:
        print(f"not evaluated yet: folds {', '.join(map(str, missing))}")
    print(describe_scores(scores))
    write_scores(config.runs_dir / "summary", scores, summarise_scores(scores))


def evaluate(config: Config, run_dir: Path) -> list[VolumeScore]:
    """Evaluate a snapshot on a fold.

    Prints the tables, and writes them and the predictions to the run.

    Raises:
        UserError: no snapshot, one that does not fit, or unusable volumes.
    """
    started = time.perf_counter()
    snapshot_file = find_snapshot(config.fold_dir / "training", config.reload_model_path)
    snapshot = load_snapshot(snapshot_file)
    config = adopt_network(config, snapshot)
    device = choose_device(config.device)
    choose_kernels(deterministic=True)
    _announce(config, snapshot, snapshot_file, device=device)
    remarks = _find_mismatches(config, snapshot)
    for remark in remarks:
        print(remark, flush=True)
    scans = load_fold(config)
    organs = {label: config.spec.labels[label] for label in config.test_label}
    jobs = plan_jobs(
        scans,
        organs,
        support_position=config.supp_idx,
        n_part=config.n_part,
        all_slices=config.evaluation.all_slices,
        every_support=config.evaluation.every_support,
    )
    remarks += find_left_out(scans, organs, support=scans[config.supp_idx])
    scores = score_methods(config, snapshot, jobs, run_dir=run_dir, device=device)
    if not any(score.dice for score in scores if score.method == TRAINED):
        remarks.append("warning: the trained network found nothing anywhere; was its training long enough?")
    print("\n".join([describe_scores(scores), *remarks]))
    summary = {
        **summarise_scores(scores),
        "snapshot": str(snapshot_file),
        "snapshot_step": snapshot.step,
        "support_id": scans[config.supp_idx].scan_id,
        "remarks": remarks,
        "config": plain_values(config),
        "versions": current_versions(),
    }
    write_scores(run_dir, scores, summary)
    print(
        f"evaluated in {time.perf_counter() - started:.0f} s, peak memory {peak_memory_gb(device):.1f} GB; "
        f"tables and predictions: {run_dir}"
    )
    return scores


def score_methods(
    config: Config, snapshot: Snapshot, jobs: Sequence[Job], *, run_dir: Path, device: torch.device
) -> list[VolumeScore]:
    """Segment and score jobs by every method; write the trained one's predictions."""
    writers = {job.protocol: PredictionWriter(run_dir / "predictions" / job.protocol) for job in jobs}
    scores = []
    for method, segmenter in make_segmenters(config, snapshot, device=device):
        is_trained = method == TRAINED
        # Baselines answer one question: the published protocol on the main support.
        own_jobs = [job for job in jobs if is_trained or (job.main_support and job.protocol == "chunks")]
        started = time.perf_counter()
        for job, probabilities in segment_jobs(segmenter, own_jobs, config, device=device, name=method):
            organ = config.spec.labels[job.label]
            scores.append(score_job(job, probabilities, method=method, fold=config.eval_fold, organ=organ))
            if is_trained and job.main_support and config.evaluation.save_predictions:
                writers[job.protocol].add(
                    job.query.scan_id,
                    job.query.geometry,
                    label=job.label,
                    organ=organ,
                    slices=job.assignment.slices,
                    probabilities=probabilities,
                )
        seconds, n_slices = time.perf_counter() - started, sum(len(job.assignment.slices) for job in own_jobs)
        print(f"{method}: {n_slices} slices, {seconds / n_slices:.3f} s a slice", flush=True)
    for writer in writers.values():
        writer.write_label_maps()
    return scores


def adopt_network(config: Config, snapshot: Snapshot) -> Config:
    """Take the network's settings and the slice size from the snapshot.

    Raises:
        UserError: the snapshot lacks them, or the user asked for other ones.
    """
    saved = snapshot.config
    try:
        model = parse_values(ModelConfig, {**default_values(ModelConfig), **saved["model"]}, prefix="model.")
        size = saved["image_size_px"]
    except (KeyError, TypeError, UserError) as error:
        raise UserError(f"the snapshot's configuration is not usable ({error}); train it again") from error
    adopted = replace(config, model=model, image_size_px=None if size is None else tuple(size))
    default = parse_config(dataset_defaults(config.dataset))
    asked = {f"model.{entry.name}": entry.name for entry in fields(ModelConfig)}
    for key, name in asked.items():
        given, of_default, trained = (getattr(c.model, name) for c in (config, default, adopted))
        _refuse_other(key, given, default=of_default, trained=trained)
    _refuse_other(
        "image_size_px", config.image_size_px, default=default.image_size_px, trained=adopted.image_size_px
    )
    return adopted


def load_fold(config: Config) -> list[EvaluationScan]:
    """Load the scans of the held-out fold; raises `UserError` as the loaders do."""
    scan_ids = _scan_ids(config)
    chosen = fold_scan_ids(scan_ids, config.eval_fold)
    return [
        load_evaluation_scan(config.layout, scan_id, image_size_px=config.image_size_px) for scan_id in chosen
    ]


def load_trained(config: Config, snapshot: Snapshot) -> FewShotSeg:
    """Build the network and load a snapshot's weights into it.

    Raises:
        UserError: the weights do not fit; the first tensor that differs is named.
    """
    model = make_network(replace(config, model=replace(config.model, encoder_weights=None)))
    own = model.state_dict()
    differing = sorted(own.keys() ^ snapshot.weights.keys()) or [
        name for name, tensor in own.items() if tensor.shape != snapshot.weights[name].shape
    ]
    if differing:
        raise UserError(f"the snapshot does not fit the network: {differing[0]} differs; train it again")
    model.load_state_dict(snapshot.weights)
    return model


def make_segmenters(
    config: Config, snapshot: Snapshot, *, device: torch.device
) -> Iterator[tuple[str, Segmenter]]:
    """Yield the methods to compare, with names: baselines, then the trained network."""
    if config.evaluation.baselines:
        untrained = make_network(replace(config, seed=snapshot.config["seed"])).to(device)
        images = _calibration_images(config)
        calibrate_batchnorm(
            untrained.encoder, [batch.to(device) for batch in images.split(config.evaluation.slices_per_call)]
        )
        yield "copied support mask", CopySegmenter()
        yield "untrained cosine", CosineSegmenter(untrained.encoder)
        yield "untrained", NetworkSegmenter(untrained)
    yield TRAINED, NetworkSegmenter(load_trained(config, snapshot).to(device))


def segment_jobs(
    segmenter: Segmenter, jobs: Sequence[Job], config: Config, *, device: torch.device, name: str
) -> Iterator[tuple[Job, np.ndarray]]:
    """Segment jobs, query by query.

    Supports are prepared once, each query slice is encoded once.

    Yields:
        The job and the organ's probability in its slices, `(n, H, W)`.
    """
    per_call = config.evaluation.slices_per_call
    states: dict[tuple[int, int, int], Any] = {}
    n_slices = sum(len(job.assignment.slices) for job in jobs)
    with progress_bar(total=n_slices, desc=f"segmenting ({name})", unit="slice") as bar:
        for query_id in dict.fromkeys(job.query.scan_id for job in jobs):
            of_query = [job for job in jobs if job.query.scan_id == query_id]
            wanted = np.unique(np.concatenate([job.assignment.slices for job in of_query]))
            images = of_query[0].query.images[wanted]
            encoding = segmenter.encode(_batches(images, per_call, device, bar=bar, name=f"scan {query_id}"))
            for job in of_query:
                positions = np.searchsorted(wanted, job.assignment.slices)
                probabilities = []
                for part, chosen in _calls(job.assignment.parts, per_call):
                    key = (job.support.scan_id, job.label, int(job.support_slices[part]))
                    if key not in states:
                        states[key] = _prepare(segmenter, job.support, *key[1:], device=device)
                    taken = segmenter.take(encoding, torch.from_numpy(positions[chosen]).to(device))
                    foreground = segmenter.segment(states[key], taken, image_size=tuple(images.shape[-2:]))
                    probabilities.append(_resized(foreground, job.query.label_map.shape[1:]))
                    bar.update(len(chosen))
                yield job, np.concatenate(probabilities)


def _batches(
    images: torch.Tensor, size: int, device: torch.device, *, bar: tqdm, name: str
) -> Iterator[torch.Tensor]:
    """Give images `(N, 1, h, w)` in batches on the device, and say on the bar that they are being encoded."""
    for start in range(0, len(images), size):
        note_on_bar(bar, f"encoding {name}, slice {start + 1} of {len(images)}")
        yield images[start : start + size].to(device)
    note_on_bar(bar, "")


def _scan_ids(config: Config) -> list[int]:
    return ensure_volumes(
        config.layout, phantom=phantom_settings(config), n_phantom_scans=config.phantom.n_scans
    )


def _calibration_images(config: Config) -> torch.Tensor:
    """Spread training slices `(N, 1, h, w)` for BatchNorm statistics."""
    chosen = training_scan_ids(_scan_ids(config), config.eval_fold)[:CALIBRATION_SCANS]
    size = config.image_size_px
    scans = [load_scan(config.layout, scan_id, image_size_px=size) for scan_id in chosen]
    slices = np.concatenate([scan.image for scan in scans])
    spread = np.linspace(0, len(slices) - 1, min(CALIBRATION_SLICES, len(slices))).astype(int)
    return torch.from_numpy(slices[spread])[:, None]


def _calls(parts: np.ndarray, per_call: int) -> Iterator[tuple[int, np.ndarray]]:
    """Split slices into calls of one part each.

    Yields the part, and positions of at most `per_call` slices.
    """
    for part in np.unique(parts):
        of_part = np.flatnonzero(parts == part)
        for start in range(0, len(of_part), per_call):
            yield int(part), of_part[start : start + per_call]


def _prepare(
    segmenter: Segmenter, support: EvaluationScan, label: int, slice_idx: int, *, device: torch.device
) -> Any:
    mask = torch.from_numpy((support.support_labels[slice_idx] == label).astype(np.float32)).to(device)
    encoding = segmenter.encode([support.images[slice_idx : slice_idx + 1].to(device)])
    return segmenter.prepare(encoding, mask)


def _resized(probabilities: torch.Tensor, size: tuple[int, ...]) -> np.ndarray:
    """Bring probabilities `(n, h, w)` to the query's own slice size."""
    if tuple(probabilities.shape[-2:]) != tuple(size):
        probabilities = F.interpolate(probabilities[:, None], size=size, mode="bilinear")[:, 0]
    return probabilities.float().cpu().numpy()


def _refuse_other(key: str, given: object, *, default: object, trained: object) -> None:
    if given not in (default, trained):
        raise UserError(f"{key}={given}: the snapshot was trained with {trained}; leave {key} out")


def _announce(config: Config, snapshot: Snapshot, path: Path, *, device: torch.device) -> None:
    print(
        f"evaluating {config.dataset}, fold {config.eval_fold} on {device}\n"
        f"snapshot: {path}, step {snapshot.step}\n"
        f"network: {config.model.encoder}, feature width {config.model.feature_width}"
    )


def _find_mismatches(config: Config, snapshot: Snapshot) -> list[str]:
    """Say where the snapshot's training was another one than this evaluation is for."""
    lines = []
    for name in ("dataset", "eval_fold", "setting"):
        given, trained = getattr(config, name), snapshot.config.get(name)
        if trained != given:
            lines.append(f"warning: the snapshot was trained with {name}={trained}, not {given}")
    if len(lines) == 1 and "eval_fold" in lines[0]:
        lines[0] += "; its training saw these scans, so these scores are too good"
    return lines


if __name__ == "__main__":
    sys.exit(run_command_line(experiment))
