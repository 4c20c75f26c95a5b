"""Segmentation from Python waits for busy cores as the commands do."""

import sys
import threading

import numpy as np
import pytest
import torch

from data.model_frame import ModelFrame
from data.raw.input_scans import InputScan
from data.transforms import Preparation
from script.workflows.scan_segmenter import Segmenter
from script.workflows.support_ensemble import Options
from tests.bright_segmenter import BrightSegmenter
from tests.oriented_scans import is_bright, l_scan
from util.errors import UserError
from util.parallel.wait_policy import AdaptiveWaitPolicy

WATCHER = "OpenMP wait policy"


def _n_watchers():
    return sum(thread.name == WATCHER for thread in threading.enumerate())


class _Observer(BrightSegmenter):
    """Counts the wait policy's threads while it adapts and segments."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def adapt(self, supports, n_labels):
        self.counts.append(("adapts", _n_watchers()))
        return self

    def segment(self, *arguments, **options):
        self.counts.append(("segments", _n_watchers()))
        return super().segment(*arguments, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP and /proc")
def test_threads_do_not_spin_on_busy_cores_while_supports_are_set_and_scans_segmented(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with AdaptiveWaitPolicy():
        if _n_watchers() == 0:
            pytest.skip("this machine has no GNU OpenMP or no scheduler statistics")
    observer, scan = _Observer(), l_scan("PSR")
    options = Options(guided=False)
    frame = ModelFrame(Preparation(orientation="LAS"), None, "test")
    segmenter = Segmenter(observer, frame, device=torch.device("cpu"), options=options, adapt=observer.adapt)
    mask = InputScan(is_bright(scan).astype(np.uint8), scan.geometry, "mask")

    def segment():
        segmenter.set_support([scan, scan], [mask, mask])
        assert segmenter.compare_supports()
        n_compared = len(observer.counts)
        assert np.array_equal(segmenter.segment(scan).label_map, is_bright(scan))
        assert len(observer.counts) > n_compared

    segment()
    assert _n_watchers() == 0
    with AdaptiveWaitPolicy():
        segment()
        assert _n_watchers() == 1
    with pytest.raises(UserError, match="slices"):
        segmenter.segment(scan, slices=(99, 100))
    assert _n_watchers() == 0
    assert {kind for kind, _ in observer.counts} == {"adapts", "segments"}
    assert {count for _, count in observer.counts} == {1}
