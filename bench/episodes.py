"""Time training episodes against their naive twin, on one thread.

    python -m bench.episodes
    python -m bench.episodes --data-dir data/CHAOST2 --supervoxel-dir data/CHAOST2

Without folders it makes five synthetic scans of 36 x 256 x 256.
"""

import argparse
import resource
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from bench.naive.episodes import make_episode
from data.layout import DatasetLayout
from data.specs import DATASETS, find_spec
from dataloaders.episodes import EpisodeConfig, EpisodeDataset
from dataloaders.volumes import PreparedScan, load_scans
from util.image_io import Geometry

SYNTHETIC_SHAPE = (36, 256, 256)
N_SYNTHETIC_SCANS = 5
MIB = 1 << 20


def main() -> None:
    """Load or make scans, time both ways of making episodes, and print one line each."""
    arguments = parse_arguments()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    started = time.perf_counter()
    scans = load(arguments) if arguments.data_dir else make_scans()
    print(f"{len(scans)} scans of about {scans[0].image.shape} in {time.perf_counter() - started:.2f} s")

    started = time.perf_counter()
    dataset = EpisodeDataset(scans, EpisodeConfig(seed=2025, n_episodes=40_000, n_shots=arguments.n_shots))
    seconds = time.perf_counter() - started
    index = dataset.index
    print(
        f"index: {len(index.target_ids)} supervoxels, {len(index.window_starts)} windows in {seconds:.2f} s"
    )

    generator = np.random.default_rng(2025)
    fast = measure("indexed", lambda i: dataset[i], arguments.n_episodes)
    # 1-shot, whatever n_shots: more shots would only widen the gap.
    naive = measure("naive", lambda i: make_episode(scans, generator), arguments.n_naive_episodes)
    print(f"naive / indexed: {naive / fast:.1f}")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def measure(name: str, make: Callable[[int], object], n_episodes: int) -> float:
    """Time `make(0) .. make(n - 1)`, print and return the median in ms.

    Working memory is what Python and NumPy hold at most beyond the loaded volumes, traced over a few more
    episodes afterwards, because tracing slows them.
    """
    make(0)
    durations_ms = []
    for i in range(n_episodes):
        started = time.perf_counter()
        make(i)
        durations_ms.append(1000 * (time.perf_counter() - started))
    tracemalloc.start()
    for i in range(5):
        make(i)
    working_mib = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    median, mean = float(np.median(durations_ms)), float(np.mean(durations_ms))
    print(
        f"{name}: {median:.2f} ms an episode (median; mean {mean:.2f}), working memory {working_mib:.1f} MiB"
    )
    return median


def load(arguments: argparse.Namespace) -> list[PreparedScan]:
    """Load the scans of a prepared dataset that have supervoxels."""
    spec = find_spec(arguments.dataset)
    layout = DatasetLayout(
        spec,
        data_dir=arguments.data_dir,
        supervoxel_dir=arguments.supervoxel_dir or arguments.data_dir,
        supervoxel_min_vox=arguments.n_sv or spec.supervoxel_min_vox,
    )
    return load_scans(layout, layout.scan_ids(), with_labels=False, with_supervoxels=True)


def make_scans() -> list[PreparedScan]:
    """Make noisy scans; supervoxels are boxes of 4 x 40 x 40 voxels in an ellipse."""
    z, y, x = np.ogrid[: SYNTHETIC_SHAPE[0], : SYNTHETIC_SHAPE[1], : SYNTHETIC_SHAPE[2]]
    body = ((y - 128) / 100) ** 2 + ((x - 128) / 120) ** 2 < 1
    boxes = 1 + (z // 4) * 49 + (y // 40) * 7 + x // 40
    supervoxels = np.where(body, boxes, 0).astype(np.int32)
    geometry = Geometry(
        SYNTHETIC_SHAPE, (7.7, 1.25, 1.25), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    )
    generator = np.random.default_rng(0)
    return [
        PreparedScan(
            scan_id,
            generator.standard_normal(SYNTHETIC_SHAPE, dtype=np.float32),
            None,
            supervoxels,
            geometry,
        )
        for scan_id in range(N_SYNTHETIC_SCANS)
    ]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="prepared dataset; synthetic scans if left out")
    parser.add_argument("--supervoxel-dir", type=Path, help="folder of supervoxels_<n_sv>; default: data-dir")
    parser.add_argument("--dataset", default="CHAOST2", choices=sorted(DATASETS))
    parser.add_argument("--n-sv", type=int, help="least supervoxel size in voxels; default: the dataset's")
    parser.add_argument("--n-shots", type=int, default=1)
    parser.add_argument("--n-episodes", type=int, default=500)
    parser.add_argument("--n-naive-episodes", type=int, default=50)
    return parser.parse_args()


if __name__ == "__main__":
    main()
