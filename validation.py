"""Evaluate a trained network on the held-out fold.

Usage: `python validation.py with dataset=CHAOST2 eval_fold=0`. `bash script/evaluate.sh` does the same for
all folds, then sums them up with `python validation.py summarise`. `python validation.py compare <run> <run>`
compares evaluations. Runs lie under `runs/<dataset>/fold_<k>/evaluation/<number>`.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config_ssl_upload import Config, dataset_defaults, parse_config
from data.datasets import DATASETS
from data.preparation import describe_change, hash_volumes
from data.prepare.original_grids import ORIGINAL_FOLDER, OriginalGrid, find_original_grids
from dataloaders.evaluation_folds import (
    EvaluationFold,
    check_support,
    describe_missing_organs,
    load_fold,
    plan_jobs,
)
from dataloaders.evaluation_sets import Job, score_job
from dataloaders.sharding import jobs_of_rank
from dataloaders.splits import Split, describe_split
from dataloaders.support_choice import describe_supports
from dataloaders.warped_masks import WarpedMasks, warp_supports
from script.workflows.case_recording import record_case, record_prior_masks
from script.workflows.evaluation_methods import improve, make_methods, make_split
from script.workflows.experiment import make_experiment
from script.workflows.networks import adopt_network
from script.workflows.refinement import chooses_mask
from script.workflows.support_adaptation import adapt_to_supports
from script.workflows.support_unets import SupportUNets
from script.workflows.unet_training import check_monai
from util.config.command_line import run_command_line, run_guarded
from util.config.rerun_commands import list_commands
from util.config.settings import default_values, plain_values
from util.engine.provenance import describe_environment
from util.engine.snapshots import Snapshot, load_snapshot
from util.engine.training_choice import TrainingChoice, choose_training, find_mismatches
from util.errors import UserError
from util.evaluation import N_FOLDS
from util.evaluation.fold_merging import merge_groups
from util.evaluation.html_report import report_evaluation
from util.evaluation.method_names import (
    ADAPTED,
    NETWORK,
    NETWORK_METHODS,
    REGISTRATION,
    TRAINED,
    UNET,
)
from util.evaluation.metrics import VolumeScore
from util.evaluation.paper_tables import write_tables
from util.evaluation.predictions import PredictionWriter
from util.evaluation.report import describe_dead_network, describe_scores, summarise_scores
from util.evaluation.report_cases import Cases
from util.evaluation.report_sources import read_cases_of_folds
from util.evaluation.run_comparison import compare_main
from util.evaluation.score_files import SUMMARY_FOLDER, write_cases, write_scores
from util.parallel.collectives import gather_values, local_main_first, run_on_all_ranks, start_ranks
from util.parallel.devices import SINGLE_RANK, choose_device
from util.parallel.hardware import peak_memory_gb, set_up_device
from util.parallel.ranks import Ranks, find_ranks
from util.parallel.threads import set_threads
from util.parallel.wait_policy import AdaptiveWaitPolicy


def check_request(config: Config) -> None:
    """Check that device, snapshot and support scan exist, before a run."""
    choose_device(config.device, find_ranks())
    if config.method == NETWORK:
        _choose_training(config)
    if _trains_unets(config):
        check_monai("evaluation.unet_steps")
    if config.evaluation.unet_joins and config.evaluation.unet_steps == 0:
        raise UserError("evaluation.unet_joins=True: no U-Net is trained; set evaluation.unet_steps")
    split = config.find_split()
    if not split.held_out:
        raise UserError(
            f"{config.layout.volumes_dir}: evaluation's {N_FOLDS} folds need at least {N_FOLDS} scans with "
            f"labels, got {len(config.layout.labelled_ids())}; annotate more"
        )
    check_support(split, support_scans=config.support_scans, supp_idx=config.supp_idx)
    if config.evaluation.original_grid:
        _find_original_grids(config, split.held_out)


experiment = make_experiment("evaluation", preflight=check_request)


@experiment.main
def main(_config: dict[str, Any], _run: Any) -> None:
    """Evaluate one fold."""
    if not _run.observers:
        raise UserError("evaluation keeps its tables in a run folder; leave out --unobserved")
    evaluate(parse_config(_config), Path(_run.observers[0].dir))


def worker_main(values: dict[str, Any], run_dir: Path) -> None:
    """Evaluate as a rank other than the main one, which owns the run."""
    evaluate(parse_config(values), run_dir)


@experiment.command(unobserved=True)
def summarise(_config: dict[str, Any]) -> None:
    """Summarise the newest evaluation of every fold and organ group."""
    config = parse_config(_config)
    merges_groups = config.setting == 2 and _config["organ_group"] is None
    groups = range(len(config.spec.organ_groups)) if merges_groups else [config.organ_group]
    runs_dirs = [config.model_copy(update={"organ_group": group}).runs_dir for group in groups]
    scores, summary, lines = merge_groups(runs_dirs)
    print("\n".join([*lines, describe_scores(scores)]))
    folder = (config.all_groups_dir if merges_groups else config.runs_dir) / SUMMARY_FOLDER
    write_scores(folder, scores, summary)
    write_tables(folder, scores)
    if config.evaluation.report:
        report_evaluation(folder, scores, summary, read_cases_of_folds(summary))


def evaluate(config: Config, run_dir: Path) -> list[VolumeScore]:
    """Evaluate a snapshot on a fold, as one rank of the job or alone.

    Prints the tables, and writes them and the predictions to the run.

    Raises:
        UserError: no snapshot, one that does not fit, or unusable volumes.
    """
    started = time.perf_counter()
    config, choice, snapshot = _load_snapshot(config)
    ranks = start_ranks(config.device)
    device, precision = set_up_device(config.device, config.precision, deterministic=True, ranks=ranks)
    config = config.model_copy(update={"precision": precision})
    _announce(config, snapshot, device=device)
    split = local_main_first(lambda: make_split(config))
    fold = load_fold(config.layout, split, config.test_organs, **config.support_options)
    size_px, width = fold.queries[0].images.shape[-2:], config.model.feature_width
    print(f"threads: {set_threads(ranks, n_workers=0, slice_size_px=size_px, feature_width=width)}")
    data = run_on_all_ranks(lambda: hash_volumes(config.layout) if ranks.is_main else None)
    remarks = _collect_remarks(config, choice, snapshot, split=split, fold=fold, data=data)
    supports = describe_supports(_name_supports(config, fold))
    print("\n".join([*config.evaluation_protocol.describe(), supports, *remarks]), flush=True)
    jobs = _plan_jobs(config, fold)
    with AdaptiveWaitPolicy():
        scores, failures, cases = _score_and_record(
            config, snapshot, jobs, run_dir=run_dir, device=device, ranks=ranks
        )
    if not ranks.is_main:
        return scores
    print("\n".join([describe_scores(scores), *failures]))
    dead = describe_dead_network(scores)
    remarks += [*failures, *([] if dead is None else [dead])]
    summary = _make_summary(config, snapshot, scores, fold=fold, data=data, remarks=remarks, device=device)
    write_tables(run_dir, scores)
    write_scores(run_dir, scores, summary)
    print(
        f"evaluated in {time.perf_counter() - started:.0f} s, peak memory {peak_memory_gb(device):.1f} GB; "
        f"tables and predictions: {run_dir}"
    )
    if config.evaluation.report:
        write_cases(run_dir, cases)
        report_evaluation(run_dir, scores, summary, cases)
    return scores


def _load_snapshot(config: Config) -> tuple[Config, TrainingChoice | None, Snapshot | None]:
    """Load the snapshot, unless registration alone is evaluated, and adopt its network's settings."""
    if config.method != NETWORK:
        return config, None, None
    choice = _choose_training(config)
    snapshot = load_snapshot(choice.snapshot)
    return adopt_network(config, snapshot), choice, snapshot


def _plan_jobs(config: Config, fold: EvaluationFold) -> list[Job]:
    return plan_jobs(
        fold,
        config.test_organs,
        n_part=config.n_part,
        chunks=config.evaluation.chunks,
        all_slices=config.evaluation.all_slices,
        every_support=config.evaluation.every_support,
    )


def _make_summary(
    config: Config,
    snapshot: Snapshot | None,
    scores: Sequence[VolumeScore],
    *,
    fold: EvaluationFold,
    data: str,
    remarks: Sequence[str],
    device: torch.device,
) -> dict[str, Any]:
    """Return what `scores.json` holds beside the scores."""
    return {
        **summarise_scores(scores),
        **_describe_snapshot(config, snapshot),
        "protocol": config.evaluation_protocol.as_record(),
        "supports": _name_supports(config, fold),
        "data_fingerprint": data,
        "remarks": remarks,
        "environment": describe_environment(device),
    }


def _name_supports(config: Config, fold: EvaluationFold) -> dict[str, int]:
    """Return the id of each organ's support."""
    return {config.test_organs[label]: scan.scan_id for label, scan in fold.supports.items()}


def _collect_remarks(
    config: Config,
    choice: TrainingChoice | None,
    snapshot: Snapshot | None,
    *,
    split: Split,
    fold: EvaluationFold,
    data: str,
) -> list[str]:
    """List what a reader of the scores should know about training and data."""
    lines = [*describe_split(split), *fold.remarks]
    if snapshot is not None:
        trained, supports = _training_settings(config), _name_supports(config, fold)
        mismatches = find_mismatches(snapshot, trained, split.held_out, supports=supports)
        lines = [*choice.remarks, *mismatches, *lines]
        if snapshot.config.get("dataset") == config.dataset:
            lines += describe_change(snapshot.data, data)
    return lines + describe_missing_organs(fold, config.test_organs)


def _score_and_record(
    config: Config,
    snapshot: Snapshot | None,
    jobs: Sequence[Job],
    *,
    run_dir: Path,
    device: torch.device,
    ranks: Ranks,
) -> tuple[list[VolumeScore], list[str], Cases]:
    """Adapt if configured, and score; returns what `score_methods` does, and the report's cases."""
    cases = Cases()
    record = partial(record_case, cases) if config.evaluation.report else None
    adapted = {} if snapshot is None else adapt_to_supports(config, snapshot, jobs, device=device)
    scores, failures = score_methods(
        config,
        snapshot,
        jobs,
        adapted=adapted,
        run_dir=run_dir,
        device=device,
        ranks=ranks,
        on_prediction=record,
    )
    cases = Cases.join(gather_values(cases))
    if ranks.is_main and config.evaluation.report and snapshot is not None:
        networks = {(job.support.scan_id, job.label): snapshot for job in jobs} | adapted
        record_prior_masks(config, networks, jobs, cases, device=device)
    return scores, failures, cases


def _defaults_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the keys would be if only those that decide defaults were set."""
    names = ("recipe", "protocol", "setting", "organ_group", "path")
    general = default_values(Config)
    deciding = {name: values.get(name, general[name]) for name in names}
    defaults = dataset_defaults(values["dataset"], deciding["recipe"], deciding["protocol"])
    baseline = plain_values(parse_config({**defaults, **deciding}))
    baseline |= {name: general[name] for name in names}
    if values["dataset"] in DATASETS:
        baseline["recipe"] = DATASETS[values["dataset"]].recipe
    return baseline


def _describe_snapshot(config: Config, snapshot: Snapshot | None) -> dict[str, Any]:
    """Return which snapshot was evaluated, how, and with which commands, for `scores.json`."""
    settings = plain_values(config)
    if snapshot is None:
        return {"config": settings, "commands": list_commands(None, settings, defaults_of=_defaults_of)}
    return {
        "snapshot": str(snapshot.source),
        "snapshot_step": snapshot.step,
        "training_config": snapshot.config,
        "config": settings,
        "commands": list_commands(
            snapshot.config, settings, snapshot=snapshot.source, defaults_of=_defaults_of
        ),
    }


def score_methods(
    config: Config,
    snapshot: Snapshot | None,
    jobs: Sequence[Job],
    *,
    adapted: Mapping[tuple[int, int], Snapshot],
    run_dir: Path,
    device: torch.device,
    ranks: Ranks = SINGLE_RANK,
    on_prediction: Callable[[Job, np.ndarray, VolumeScore], None] | None = None,
) -> tuple[list[VolumeScore], list[str]]:
    """Segment and score jobs by every method; write predictions.

    These are the trained network's or, if there are any, those of the adapted networks; without a snapshot
    those of registration; guided and refined if configured. Each rank processes its share of the queries, and
    passes their probabilities and scores to `on_prediction`.

    Returns:
        The scores of all ranks, in the jobs' order, and remarks on failed registrations.
    """
    query_ids = list(dict.fromkeys(job.query.scan_id for job in jobs))
    rank_jobs = jobs_of_rank(jobs, rank=ranks.rank, n_ranks=ranks.n_ranks)
    warped = _warp_supports(config, rank_jobs) if config.needs_registration else None
    unets = _make_unets(config, rank_jobs, device=device)
    writers = _make_writers(config, rank_jobs, run_dir)
    predicting = REGISTRATION if snapshot is None else ADAPTED if adapted else TRAINED
    scores = []
    methods = make_methods(config, snapshot, warped, unets, adapted=adapted, device=device)
    for n_method, (method, segment) in enumerate(methods):
        selected = _select_jobs(rank_jobs, method, config)
        started = time.perf_counter()
        for n_job, (job, raw) in enumerate(segment(selected)):
            versions = improve(config, job, raw, method=method, warped=warped, unets=unets)
            for n_version, (name, probabilities) in enumerate(versions):
                entry = _score(config, job, probabilities, method=name)
                order = (n_method, n_version, query_ids.index(job.query.scan_id), n_job)
                scores.append((order, entry))
            if method != predicting or not job.main_support:
                continue
            _add_prediction(writers, job, probabilities, organ=entry.organ)
            if on_prediction is not None:
                on_prediction(job, probabilities, entry)
        seconds, n_slices = time.perf_counter() - started, sum(len(job.assignment.slices) for job in selected)
        print(f"{method}: {n_slices} slices, {seconds / max(n_slices, 1):.3f} s a slice", flush=True)
    for writer in (writer for protocol_writers in writers.values() for writer in protocol_writers):
        writer.write_label_maps()
    gathered = gather_values((scores, warped.describe() if warped else []))
    all_scores = sorted((entry for entries, _ in gathered for entry in entries), key=lambda entry: entry[0])
    return [entry for _, entry in all_scores], [line for _, lines in gathered for line in lines]


def _score(config: Config, job: Job, probabilities: np.ndarray, *, method: str) -> VolumeScore:
    organ, tolerance_mm = config.spec.labels[job.label], config.spec.nsd_tolerance_mm
    return score_job(
        job, probabilities, method=method, organ=organ, fold=config.eval_fold, nsd_tolerance_mm=tolerance_mm
    )


def _make_writers(config: Config, jobs: Sequence[Job], run_dir: Path) -> dict[str, list[PredictionWriter]]:
    """Return the writers of each protocol's predictions, on prepared and original grids as configured."""
    folders = {"predictions": None} if config.evaluation.save_predictions else {}
    if config.evaluation.original_grid:
        query_ids = dict.fromkeys(job.query.scan_id for job in jobs)
        folders[ORIGINAL_FOLDER] = _find_original_grids(config, list(query_ids))
    return {
        protocol: [PredictionWriter(run_dir / name / protocol, grids) for name, grids in folders.items()]
        for protocol in dict.fromkeys(job.protocol for job in jobs)
    }


def _find_original_grids(config: Config, scan_ids: Sequence[int]) -> dict[int, OriginalGrid]:
    try:
        return find_original_grids(config.layout, scan_ids)
    except UserError as error:
        raise UserError(f"evaluation.original_grid=True: {error}") from error


def _add_prediction(
    writers: Mapping[str, Sequence[PredictionWriter]], job: Job, probabilities: np.ndarray, *, organ: str
) -> None:
    for writer in writers[job.protocol]:
        writer.add(
            job.query.scan_id,
            job.query.geometry,
            label=job.label,
            organ=organ,
            slices=job.assignment.slices,
            probabilities=probabilities,
        )


def _select_jobs(jobs: Sequence[Job], method: str, config: Config) -> list[Job]:
    """Select the jobs of a method."""
    if method == TRAINED:
        return list(jobs)
    # The others answer one question: what the main support gives.
    selected = [job for job in jobs if job.main_support]
    if method in (REGISTRATION, UNET, *NETWORK_METHODS):
        return selected
    first_slices = "chunks" if config.evaluation.chunks else "all_slices"
    return [job for job in selected if job.protocol == first_slices]


def _warp_supports(config: Config, jobs: Sequence[Job]) -> WarpedMasks:
    """Register the main supports to the queries of jobs."""
    cache_dir = Path(config.path.log_dir) / config.dataset / "registrations"
    options = config.evaluation
    by_both = config.method == NETWORK and options.guide == REGISTRATION and chooses_mask(options)
    return warp_supports(jobs, by_both=by_both, cache_dir=cache_dir, progress=find_ranks().is_main)


def _trains_unets(config: Config) -> bool:
    """Return whether U-Nets are scored, or help a network; without one, these are not trained."""
    options = config.evaluation
    return options.unet_steps > 0 and (config.method == NETWORK or not options.unet_joins)


def _make_unets(config: Config, jobs: Sequence[Job], *, device: torch.device) -> SupportUNets | None:
    """Return the U-Nets of the supports, if the configuration trains any."""
    if not _trains_unets(config):
        return None
    cache_dir = Path(config.path.log_dir) / config.dataset / "unets"
    return SupportUNets(jobs, config=config, device=device, cache_dir=cache_dir)


def _choose_training(config: Config) -> TrainingChoice:
    return choose_training(config.fold_dir / "training", config.reload_model_path, folds=config.folds)


def _training_settings(config: Config) -> dict[str, Any]:
    """Return the settings that the training should share."""
    names = ["dataset", "eval_fold", "setting", "folds", *(["organ_group"] if config.setting == 2 else [])]
    return {name: getattr(config, name) for name in names}


def _announce(config: Config, snapshot: Snapshot | None, *, device: torch.device) -> None:
    if snapshot is None:
        print(f"evaluating {config.dataset}, fold {config.eval_fold}: registration alone, no network")
        return
    n_steps = snapshot.config.get("n_steps", snapshot.step)
    unfinished = "" if snapshot.step == n_steps else f" of {n_steps}"
    print(
        f"evaluating {config.dataset}, fold {config.eval_fold} in {config.precision} on {device}\n"
        f"snapshot: {snapshot.source}, step {snapshot.step}{unfinished}\n"
        f"network: {config.model.encoder}, feature width {config.model.feature_width}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        sys.exit(run_guarded(partial(compare_main, sys.argv[2:])))
    sys.exit(run_command_line(experiment, worker_main=worker_main))
