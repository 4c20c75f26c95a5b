"""Record what a report shows of a job's prediction."""

import numpy as np

from dataloaders.evaluation_sets import Job
from util.evaluation.metrics import VolumeScore
from util.evaluation.postprocess import THRESHOLD
from util.evaluation.report_cases import Cases, OrganVolume


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
