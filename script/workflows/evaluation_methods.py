"""Segment the jobs of a fold by each method that an evaluation compares."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from config_ssl_upload import Config
from data.preparation import ensure_volumes
from dataloaders.evaluation_sets import Job, job_tensors
from dataloaders.prepared_scans import load_scan
from dataloaders.splits import Split
from dataloaders.warped_masks import WarpedMasks
from models.encoder import calibrate_batchnorm
from models.few_shot_seg import FewShotSeg
from models.inference.scan import OrganQuery, segment_queries
from models.inference.segmenters import CopySegmenter, CosineSegmenter, NetworkSegmenter, SupportSegmenter
from models.inference.supports import SupportBank
from script.workflows.networks import load_segmenter, make_network
from script.workflows.refinement import guide_job, join, refine_job
from script.workflows.support_unets import SupportUNets
from util.engine.snapshots import Snapshot
from util.evaluation.method_names import (
    ADAPTED,
    COPIED_MASK,
    COSINE,
    NETWORK_METHODS,
    NO_GUIDE,
    REGISTRATION,
    TRAINED,
    UNET,
    UNTRAINED,
    guided,
    joined,
    refined,
)
from util.evaluation.postprocess import keep_largest_component
from util.parallel.ranks import find_ranks
from util.progress import note_on_bar, progress_bar

CALIBRATION_SCANS, CALIBRATION_SLICES, CALIBRATION_BATCH = 4, 64, 4


def make_methods(
    config: Config,
    snapshot: Snapshot | None,
    warped: WarpedMasks | None,
    unets: SupportUNets | None,
    *,
    adapted: Mapping[tuple[int, int], Snapshot],
    device: torch.device,
) -> Iterator[tuple[str, Callable[[Sequence[Job]], Iterator[tuple[Job, np.ndarray]]]]]:
    """Yield the name of each method, and a function from jobs to probabilities."""
    if config.evaluation.baselines or snapshot is None:
        yield REGISTRATION, warped.segment
    if unets is not None:
        yield UNET, unets.segment
    if snapshot is None:
        return
    for name, segmenter in make_segmenters(config, snapshot, device=device):
        yield name, partial(segment_jobs, segmenter, config=config, device=device, name=name)
    if adapted:
        yield ADAPTED, partial(segment_adapted, adapted=adapted, config=config, device=device)


def improve(
    config: Config,
    job: Job,
    probabilities: np.ndarray,
    *,
    method: str,
    warped: WarpedMasks | None,
    unets: SupportUNets | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Improve a method's result as configured; yields each version with its name.

    The first is the result itself, the last the prediction.

    Args:
        config: of the evaluation.
        job: what was segmented.
        probabilities: of the foreground, `(n, H, W)` in the job's slices.
        method: its name.
        warped: the supports' masks, if registration guides.
        unets: those of the supports, if they join the network.
    """
    options = config.evaluation
    if method == REGISTRATION and options.largest_component:
        probabilities = keep_largest_component(probabilities)
    name = method
    yield name, probabilities
    if method not in (REGISTRATION, UNET, *NETWORK_METHODS) or not job.main_support:
        return
    if options.unet_joins and method in NETWORK_METHODS:
        name, probabilities = joined(name), join(probabilities, unets.segment_job(job))
        if options.largest_component:
            probabilities = keep_largest_component(probabilities)
        yield name, probabilities
    if options.guide != NO_GUIDE and method != REGISTRATION:
        name, probabilities = guided(name), guide_job(probabilities, job, warped, options)
        yield name, probabilities
    if options.intensity_weight:
        yield refined(name), refine_job(probabilities, job, options)


def make_segmenters(
    config: Config, snapshot: Snapshot, *, device: torch.device
) -> Iterator[tuple[str, SupportSegmenter]]:
    """Yield the methods to compare, with names: baselines, then the trained network."""
    if config.evaluation.baselines:
        seed = snapshot.config.get("seed", config.seed)
        untrained = make_untrained(config.model_copy(update={"seed": seed}), device=device)
        yield COPIED_MASK, CopySegmenter()
        yield COSINE, CosineSegmenter(untrained.encoder)
        yield UNTRAINED, NetworkSegmenter(untrained, precision=config.precision)
    yield TRAINED, load_segmenter(config, snapshot, device=device)


def make_untrained(config: Config, *, device: torch.device) -> FewShotSeg:
    """Build the network as before its training, but for BatchNorm statistics.

    These are of training slices.
    """
    network = make_network(config).to(device)
    batches = calibration_images(config).split(CALIBRATION_BATCH)
    calibrate_batchnorm(network.encoder, [batch.to(device) for batch in batches])
    return network


def calibration_images(config: Config) -> torch.Tensor:
    """Spread training slices `(N, 1, h, w)` for BatchNorm statistics."""
    scan_ids = make_split(config).training[:CALIBRATION_SCANS]
    size = config.image_size_px
    slices = np.concatenate(
        [load_scan(config.layout, scan_id, image_size_px=size).image for scan_id in scan_ids]
    )
    spread = np.linspace(0, len(slices) - 1, min(CALIBRATION_SLICES, len(slices))).astype(int)
    return torch.from_numpy(slices[spread])[:, None]


def make_split(config: Config) -> Split:
    """Split the dataset's scans for the fold; PHANTOM is made where it is missing."""
    scan_ids = ensure_volumes(
        config.layout, phantom=config.phantom.settings, n_phantom_scans=config.phantom.n_scans
    )
    return config.find_split(scan_ids)


def segment_adapted(
    jobs: Sequence[Job],
    *,
    adapted: Mapping[tuple[int, int], Snapshot],
    config: Config,
    device: torch.device,
) -> Iterator[tuple[Job, np.ndarray]]:
    """Segment jobs, each by the network adapted to its support scan and organ."""
    jobs_of: dict[int, list[Job]] = {}
    for job in jobs:
        jobs_of.setdefault(id(adapted[job.support.scan_id, job.label]), []).append(job)
    for jobs_of_network in jobs_of.values():
        snapshot = adapted[jobs_of_network[0].support.scan_id, jobs_of_network[0].label]
        segmenter = load_segmenter(config, snapshot, device=device)
        yield from segment_jobs(segmenter, jobs_of_network, config=config, device=device, name=ADAPTED)


def segment_jobs(
    segmenter: SupportSegmenter, jobs: Sequence[Job], *, config: Config, device: torch.device, name: str
) -> Iterator[tuple[Job, np.ndarray]]:
    """Segment jobs, query by query; see `segment_queries`.

    Yields:
        The job and the organ's probability in its slices, `(n, H, W)`.
    """
    options = config.evaluation
    n_versions = options.test_time_augmentation if segmenter.uses_queries else 1
    total = n_versions * sum(len(job.assignment.slices) for job in jobs)
    is_main = find_ranks().is_main
    with progress_bar(total=total, desc=f"segmenting ({name})", unit="slice", disable=not is_main) as bar:
        results = segment_queries(
            segmenter,
            [OrganQuery(**job_tensors(job)) for job in jobs],
            device=device,
            bank=SupportBank(
                segmenter, n_slices=options.support_slices, join=options.join_support, device=device
            ),
            n_versions=n_versions,
            per_call=options.slices_per_call,
            on_encoding=partial(_note_encoding, bar),
            on_segmented=bar.update,
        )
        for position, foreground in results:
            probabilities = foreground.numpy()
            yield (
                jobs[position],
                keep_largest_component(probabilities) if options.largest_component else probabilities,
            )


def _note_encoding(bar: tqdm, scan_id: int, progress: str) -> None:
    note_on_bar(bar, progress and f"encoding scan {scan_id}, {progress}")
