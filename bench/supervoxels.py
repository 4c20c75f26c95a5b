"""Time the supervoxels of one scan against a sorted edge list.

Usage: `python bench/supervoxels.py [--image FILE]`. Both run in a process of their own on one core, so that
each has its own peak memory; times are CPU seconds, which other load disturbs least. The twin's union-find is
compiled too, hence the ratio is that of the two ways to walk the edges. Their results must agree.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyximport
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench" / "naive")]
pyximport.install(
    build_dir=str(ROOT / "build" / "bench"), language_level=3
)  # compiles the twin when imported

import supervoxels_edge_list  # noqa: E402

from data.supervoxels import segmentation  # noqa: E402
from util.image_io import read_volume  # noqa: E402

SHAPE = (37, 256, 256)
SPACING_MM = (7.7, 1.25, 1.25)


def main() -> None:
    """Run both variants and print their time, memory and ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", help="a scan to segment instead of the synthetic one")
    parser.add_argument("--min-size", type=int, default=5000, help="least supervoxel in voxels")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many runs counts")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options)))
        return
    results = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
        result = results[variant] = json.loads(done.stdout)
        print(
            f"{variant:>9}: {result['seconds']:6.2f} s CPU, peak {result['peak_mb']:5.0f} MB of the process, "
            f"{result['n_segments']} segments",
            flush=True,
        )
    implicit, listed = results["implicit"], results["edge list"]
    if implicit["digest"] != listed["digest"]:
        sys.exit("error: the two results differ")
    print(f"    ratio: {listed['seconds'] / implicit['seconds']:.1f} in time, same result")


def measure(options: argparse.Namespace) -> dict:
    """Time one variant in this process."""
    volume, spacing_mm = load(options.image)
    seconds = []
    for _ in range(options.repeats):
        start = time.process_time()
        labels = VARIANTS[options.variant](volume, spacing_mm, min_size_vox=options.min_size)
        seconds.append(time.process_time() - start)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # before the comparison adds its own
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    by_appearance = np.argsort(np.argsort(first))[inverse.ravel()].astype(np.int32)
    return {
        "seconds": min(seconds),
        "peak_mb": peak_kb / 1024,  # Linux counts in KiB
        "n_segments": len(first),
        "digest": hashlib.sha256(by_appearance.tobytes()).hexdigest(),
    }


def load(image: str | None) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Read a scan or make noisy smooth blobs in whole grey levels; scale to 0..255."""
    if image:
        volume, geometry = read_volume(Path(image))
        return segmentation.scale_intensities(volume), geometry.spacing_mm
    noise = np.random.default_rng(2025).standard_normal((2, *SHAPE), dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise[0], (1.0, 8.0, 8.0))
    volume = np.rint(400.0 * np.maximum(smooth / smooth.std() + 0.1 * noise[1], -0.5))
    return segmentation.scale_intensities(volume), SPACING_MM


def segment_by_edge_list(
    volume: np.ndarray, spacing_mm: tuple[float, float, float], *, min_size_vox: int
) -> np.ndarray:
    """Segment with every edge in a list and NumPy's stable sort."""
    voxel = np.arange(volume.size, dtype=np.int32).reshape(volume.shape)
    firsts, seconds, weights = [], [], []
    for step, factor in zip(segmentation.DIRECTIONS, segmentation.weight_factors(spacing_mm), strict=True):
        here = tuple(slice(max(0, -d), size - max(0, d)) for d, size in zip(step, volume.shape, strict=True))
        there = tuple(slice(max(0, d), size + min(0, d)) for d, size in zip(step, volume.shape, strict=True))
        firsts.append(voxel[here].ravel())
        seconds.append(voxel[there].ravel())
        weights.append((np.abs(volume[here] - volume[there]) * factor).ravel())
    weight = np.concatenate(weights)
    order = np.argsort(weight, kind="stable")
    first, second = np.concatenate(firsts)[order], np.concatenate(seconds)[order]
    return supervoxels_edge_list.join_edges(
        first, second, weight[order], k=1.0 / 255.0, min_size=min_size_vox
    )


VARIANTS = {"implicit": segmentation.segment_supervoxels, "edge list": segment_by_edge_list}


if __name__ == "__main__":
    main()
