"""Time training episodes against their naive twin, on one thread, and the loader.

    python -m bench.episodes
    python -m bench.episodes --data-dir data/CHAOST2 --supervoxel-dir data/CHAOST2

Without folders it makes five synthetic scans of 36 x 256 x 256.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.measuring import MB, Measurement, measure_alternately, measure_in_process
from bench.sections import (
    Headline,
    Section,
    Table,
    benchmark_parser,
    format_ratio,
    format_seconds,
    write_section,
)
from data.datasets import DATASETS, find_spec
from data.layout import DatasetLayout
from dataloaders.prepared_scans import PreparedScan, load_scans

N_SYNTHETIC_SCANS = 5
LONGEST_TRAINING = 40_000
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def main() -> None:
    """Measure, and write the section."""
    options = parse_arguments()
    scans = {name: getattr(options, name) for name in ("data_dir", "supervoxel_dir", "dataset", "n_sv")}
    measured = {n_shots: measure_shots(scans, options, n_shots) for n_shots in options.n_shots}
    first = next(iter(measured.values()))
    ours, naive = first["ours"], first["naive"]
    described = "{n_scans} scans of about {shape}, {n_targets} supervoxels".format(**ours.extra)
    section = Section(
        title="Episodes",
        command="bash bench/run.sh episodes",
        intro=(
            f"{described}, one thread. Ours draws from an index of all windows, built once, and warps one "
            "channel once. The naive twin searches a scan for each episode and deforms three channels twice "
            "with SciPy. Working memory is what Python and NumPy hold beyond the loaded volumes while an "
            "episode is made."
        ),
        tables=[shots_table(measured), loader_table(scans, options)],
        headline=[
            Headline(
                f"one episode, {options.n_shots[0]} shot",
                f"{format_seconds(ours)}, working {ours.extra['working_mb']:.1f} MB",
                f"{format_seconds(naive)}, working {naive.extra['working_mb']:.1f} MB",
                format_ratio(naive, ours),
                f"{naive.extra['working_mb'] / ours.extra['working_mb']:.1f}x",
                ">= 15x",
            )
        ],
    )
    write_section("episodes", section, options.device, quick=options.quick)


def measure_shots(
    scans: dict[str, object], options: argparse.Namespace, n_shots: int
) -> dict[str, Measurement]:
    """Measure both ways for a number of shots."""
    n_ours, n_naive = (100, 10) if options.quick else (options.n_episodes, options.n_naive_episodes)
    variants = {
        name: (
            "bench.episodes:time_episodes",
            {**scans, "n_shots": n_shots, "variant": name, "n_episodes": n},
        )
        for name, n in (("ours", n_ours), ("naive", n_naive))
    }
    return measure_alternately(variants, rounds=1 if options.quick else 3, environment=ONE_THREAD)


def time_episodes(variant: str, n_episodes: int, *, n_shots: int, **scans: object) -> dict[str, object]:
    """Time episode after episode in this process, on one thread."""
    import cv2
    import torch

    from bench.naive.episodes import make_episode
    from dataloaders.episodes import EpisodeConfig, EpisodeDataset

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    loaded = load(**scans)
    config = EpisodeConfig(seed=2025, n_episodes=LONGEST_TRAINING, n_shots=n_shots)
    dataset = EpisodeDataset(loaded, config)
    generator = np.random.default_rng(2025)
    make = {"ours": lambda i: dataset[i], "naive": lambda i: make_episode(loaded, generator, n_shots=n_shots)}
    make[variant](0)
    seconds = []
    for i in range(n_episodes):
        started = time.perf_counter()
        make[variant](i)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": seconds,
        "working_mb": working_memory_mb(make[variant]),
        "n_scans": len(loaded),
        "shape": " x ".join(map(str, loaded[0].image.shape)),
        "n_targets": len(dataset.index.target_ids),
    }


def working_memory_mb(make: Callable[[int], object]) -> float:
    """Trace what Python and NumPy hold at most while episodes are made."""
    tracemalloc.start()
    for i in range(5):
        make(i)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MB


def time_loader(n_workers: int, n_episodes: int, **scans: object) -> dict[str, object]:
    """Time the loader's batches of one episode, after the first few, per episode."""
    import cv2
    import torch

    from dataloaders.episodes import EpisodeConfig, EpisodeDataset, make_episode_loader

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    n_warm_up = 20
    dataset = EpisodeDataset(load(**scans), EpisodeConfig(seed=2025, n_episodes=n_warm_up + n_episodes))
    batches = iter(make_episode_loader(dataset, batch_size=1, num_workers=n_workers))
    started = time.perf_counter()
    next(batches)
    first = time.perf_counter() - started
    for _ in range(n_warm_up - 1):
        next(batches)
    started = time.perf_counter()
    n_made = sum(1 for _ in batches)
    return {"seconds": [(time.perf_counter() - started) / n_made], "first": first}


def shots_table(measured: dict[int, dict[str, Measurement]]) -> Table:
    """Lay out the comparison over the numbers of shots."""
    rows = [
        [
            str(n_shots),
            format_seconds(one["ours"]),
            f"{one['ours'].extra['working_mb']:.1f} MB",
            format_seconds(one["naive"]),
            f"{one['naive'].extra['working_mb']:.1f} MB",
            format_ratio(one["naive"], one["ours"]),
        ]
        for n_shots, one in measured.items()
    ]
    columns = ["shots", "ours", "working memory", "naive", "working memory", "ratio"]
    return Table("One episode:", columns, rows)


def loader_table(scans: dict[str, object], options: argparse.Namespace) -> Table:
    """Measure what a training receives with 0, 1 and 2 workers."""
    arguments = {**scans, "n_episodes": 200 if options.quick else 1000}
    rows = []
    for n_workers in (0, 1, 2):
        one = [
            measure_in_process(
                "bench.episodes:time_loader", environment=ONE_THREAD, n_workers=n_workers, **arguments
            )
            for _ in range(1 if options.quick else 3)
        ]
        rates = sorted(1 / measurement.median for measurement in one)
        first = sorted(measurement.extra["first"] for measurement in one)[len(one) // 2]
        rows.append(
            [
                str(n_workers),
                f"{rates[len(rates) // 2]:.0f} ({rates[0]:.0f}-{rates[-1]:.0f})",
                f"{1000 * first:.0f} ms",
            ]
        )
    caption = "The loader, batches of one episode, nothing else to do:"
    return Table(caption, ["workers", "episodes per second", "until the first"], rows)


def load(
    data_dir: str | None, supervoxel_dir: str | None, dataset: str, n_sv: int | None
) -> list[PreparedScan]:
    """Load the scans of a prepared dataset that have supervoxels, or make some."""
    from bench.synthetic import make_scans

    if data_dir is None:
        return make_scans(N_SYNTHETIC_SCANS)
    spec = find_spec(dataset)
    layout = DatasetLayout(
        spec,
        data_dir=Path(data_dir),
        supervoxel_dir=Path(supervoxel_dir or data_dir),
        supervoxel_min_vox=n_sv or spec.supervoxel_min_vox,
    )
    return load_scans(layout, layout.scan_ids(), with_labels=False, with_supervoxels=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--data-dir", help="prepared dataset; synthetic scans if left out")
    parser.add_argument("--supervoxel-dir", help="folder of supervoxels_<n_sv>; default: data-dir")
    parser.add_argument("--dataset", default="CHAOST2", choices=sorted(DATASETS))
    parser.add_argument("--n-sv", type=int, help="least supervoxel size in voxels; default: the dataset's")
    parser.add_argument("--n-shots", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--n-episodes", type=int, default=500, help="ours, in each of three rounds")
    parser.add_argument("--n-naive-episodes", type=int, default=50)
    return parser.parse_args()


if __name__ == "__main__":
    main()
