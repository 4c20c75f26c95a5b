"""Record what a report shows of each query: its prediction, and prior masks."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from config_ssl_upload import Config
from dataloaders.evaluation_sets import Job
from models.inference.segmenters import NetworkSegmenter
from models.inference.supports import SupportBank
from script.workflows.networks import load_segmenter
from util.engine.snapshots import Snapshot
from util.evaluation.metrics import VolumeScore
from util.evaluation.postprocess import THRESHOLD
from util.evaluation.report_cases import (
    Case,
    Cases,
    OrganVolume,
    add_prior_masks,
    choose_cases,
    group_by_organ,
)


def record_case(cases: Cases, job: Job, probabilities: np.ndarray, score: VolumeScore) -> None:
    """Add a job's probabilities `(n, H, W)` and their score to the cases of a report."""
    query, support = (
        OrganVolume(scan.scan_id, scan.images[:, 0].numpy(), scan.label_map == job.label, scan.geometry)
        for scan in (job.query, job.support)
    )
    cases.add(
        score,
        probabilities > THRESHOLD,
        query=query,
        support=support,
        slices=job.assignment.slices,
        support_slices=job.support_slices[job.assignment.parts],
    )


def record_prior_masks(
    config: Config,
    snapshots: Mapping[tuple[int, int], Snapshot],
    jobs: Sequence[Job],
    cases: Cases,
    *,
    device: torch.device,
) -> None:
    """Add prior masks to the worst, median and best case of each organ and protocol.

    Cases are replaced in place; the time that this takes is printed.

    The masks are those of the displayed support slice alone and of the query slice as it is: more support
    slices and changed versions, if configured, are left out.

    Args:
        config: with the snapshots' network and slice size.
        snapshots: of the network that predicts, by id of the support scan and label.
        jobs: of the cases.
        cases: of one fold.
        device: where the network computes.
    """
    started = time.perf_counter()
    job_of = {(job.protocol, job.query.scan_id, job.label): job for job in jobs if job.main_support}
    displayed = {id(case): case for group in group_by_organ(cases.cases) for _, case in choose_cases(group)}
    by_network: dict[int, list[tuple[Case, Job]]] = {}
    for case in displayed.values():
        job = job_of[case.score.protocol, case.score.query_id, case.score.label]
        by_network.setdefault(id(snapshots[job.support.scan_id, job.label]), []).append((case, job))
    completed: dict[int, Case] = {}
    for pairs in by_network.values():
        job = pairs[0][1]
        segmenter = load_segmenter(config, snapshots[job.support.scan_id, job.label], device=device)
        completed |= _complete_cases(segmenter, pairs, device=device)
    cases.cases[:] = [completed.get(id(case), case) for case in cases.cases]
    n_masks = sum(len(case.pairs) for case in completed.values())
    print(f"prior masks for the report: {n_masks}, {time.perf_counter() - started:.1f} s", flush=True)


def _complete_cases(
    segmenter: NetworkSegmenter, pairs: Sequence[tuple[Case, Job]], *, device: torch.device
) -> dict[int, Case]:
    """Return cases with prior masks by the id of the case without; each slice is encoded once."""
    bank = SupportBank(segmenter, n_slices=1, join="probabilities", device=device)
    for _, job in pairs:
        support, support_slices = job.support, job.support_slices.tolist()
        label_map = torch.from_numpy(support.support_labels)
        bank.plan(
            support.scan_id, job.label, images=support.images, label_map=label_map, slices=support_slices
        )
    completed = {}
    for query_id in dict.fromkeys(job.query.scan_id for _, job in pairs):
        query_pairs = [(case, job) for case, job in pairs if job.query.scan_id == query_id]
        images, size_px = query_pairs[0][1].query.images, query_pairs[0][1].query.label_map.shape[1:]
        slices = {pair.slice_idx for case, _ in query_pairs for pair in case.pairs}
        encodings = {z: segmenter.encode([images[z : z + 1].to(device)]) for z in sorted(slices)}
        for case, job in query_pairs:
            masks = []
            for pair in case.pairs:
                part = int(job.assignment.parts[job.assignment.slices == pair.slice_idx][0])
                [support] = bank.supports(job.support.scan_id, job.label, part)
                mask = segmenter.find_prior_masks(support, encodings[pair.slice_idx], image_size=size_px)
                masks.append(mask[0].cpu().numpy())
            completed[id(case)] = add_prior_masks(case, masks, job.query.geometry)
    return completed
