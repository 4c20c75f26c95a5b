"""A small scan pair with known errors, and paths read back to masks, for tests of the report."""

import re

import numpy as np

from tests.util.evaluation.example_scores import make_score
from util.evaluation.report_cases import Cases, OrganVolume
from util.io.image_io import Geometry

SHAPE = (6, 16, 20)
LPS = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
GEOMETRY = Geometry(SHAPE, (5.0, 2.0, 1.0), (0.0, 0.0, 0.0), LPS)


def make_volume(scan_id, *, z, seed=0):
    """Make a scan whose organ covers rows 4 to 9 and columns 5 to 10 of slices z."""
    mask = np.zeros(SHAPE, bool)
    mask[z, 4:10, 5:11] = True
    images = np.random.default_rng(seed + scan_id).normal(size=SHAPE).astype(np.float32)
    return OrganVolume(scan_id, images, mask, GEOMETRY)


def add_case(cases, score=None, *, shift=2):
    """Add a case: of slices 1 to 4 the organ is in 2 and 3, predicted in 2 (right) and 3 (shifted)."""
    score = score or make_score()
    query = make_volume(score.query_id, z=slice(2, 4))
    slices = np.arange(1, 5)
    prediction = query.mask[slices].copy()
    prediction[2] = np.roll(prediction[2], shift, axis=1)
    options = {"query": query, "support": make_volume(score.support_id, z=slice(1, 5))}
    cases.add(score, prediction, slices=slices, support_slices=np.array([1, 1, 4, 4]), **options)


def make_cases(scores, **options):
    """Make a case of each score."""
    cases = Cases()
    for score in scores:
        add_case(cases, score, **options)
    return cases


def read_bars(path, shape=SHAPE[1:]):
    """Read the mask that a path of horizontal bars covers, each pixel at most once."""
    mask = np.zeros(shape, int)
    bars = re.findall(r"M(\d+),(\d+)h(\d+)v1h-(\d+)z", path)
    assert "".join(f"M{x},{y}h{n}v1h-{n_back}z" for x, y, n, n_back in bars) == path
    for x, y, n, n_back in bars:
        assert n == n_back
        mask[int(y), int(x) : int(x) + int(n)] += 1
    assert mask.max() <= 1
    return mask.astype(bool)
