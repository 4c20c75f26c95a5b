"""Time one implementation of supervoxels, with few imports in the process."""

import hashlib
import sys

import numpy as np

from bench.measuring import peak_memory_mb, time_calls
from bench.naive.naive_supervoxels import segment_compact, segment_textbook
from data.supervoxels.segmentation import segment_supervoxels

VARIANTS = {"ours": segment_supervoxels, "compact": segment_compact, "textbook": segment_textbook}


def time_variant(
    variant: str, scan: str, min_size_vox: int, *, repeats: int, extensions_dir: str
) -> dict[str, object]:
    """Time one of `VARIANTS`.

    `scan` is a file with `volume`, float32 `(Z, H, W)` in 0..255, and `spacing_mm`; `extensions_dir` is the
    folder of the compiled naive implementations.
    """
    sys.path.insert(0, extensions_dir)
    with np.load(scan) as arrays:
        volume, spacing_mm = arrays["volume"], tuple(arrays["spacing_mm"])
    labels = None

    def segment() -> None:
        nonlocal labels
        labels = VARIANTS[variant](volume, spacing_mm, min_size_vox=min_size_vox)

    seconds = time_calls(segment, repeats, warm_up=0)
    peak_mb = peak_memory_mb()  # before the digest allocates memory
    return {"seconds": seconds, "peak_mb": peak_mb, "shape": volume.shape, **describe_labels(labels)}


def describe_labels(labels: np.ndarray) -> dict[str, object]:
    """Count the segments and compute a digest that does not depend on their ids."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    by_appearance = np.argsort(np.argsort(first))[inverse.ravel()].astype(np.int32)
    return {"n_segments": len(first), "digest": hashlib.sha256(by_appearance.tobytes()).hexdigest()}
