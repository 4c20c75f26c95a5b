"""Run one way of making supervoxels, with no more imports than it needs."""

import hashlib
import sys
import time

import numpy as np

from bench.measuring import peak_memory_mb
from bench.naive.supervoxels import segment_by_textbook, segment_by_tight_edge_list
from data.supervoxels.segmentation import segment_supervoxels

VARIANTS = {
    "ours": segment_supervoxels,
    "tight": segment_by_tight_edge_list,
    "textbook": segment_by_textbook,
}


def time_variant(
    variant: str, scan: str, min_size_vox: int, *, repeats: int, twins_dir: str
) -> dict[str, object]:
    """Time one way.

    Args:
        variant: one of `VARIANTS`.
        scan: a file with `volume`, float32 `(Z, H, W)` in 0..255, and `spacing_mm`.
        min_size_vox: least size of a segment.
        repeats: how often it runs.
        twins_dir: where the compiled twins lie.
    """
    sys.path.insert(0, twins_dir)
    with np.load(scan) as arrays:
        volume, spacing_mm = arrays["volume"], tuple(arrays["spacing_mm"])
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        labels = VARIANTS[variant](volume, spacing_mm, min_size_vox=min_size_vox)
        seconds.append(time.perf_counter() - started)
    peak_mb = peak_memory_mb()  # before the comparison adds its own
    return {"seconds": seconds, "peak_mb": peak_mb, "shape": volume.shape, **describe_labels(labels)}


def describe_labels(labels: np.ndarray) -> dict[str, object]:
    """Count the segments, and make a digest that forgets their ids."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    by_appearance = np.argsort(np.argsort(first))[inverse.ravel()].astype(np.int32)
    return {"n_segments": len(first), "digest": hashlib.sha256(by_appearance.tobytes()).hexdigest()}
