"""Time training episodes against the naive version, and the loader.

    python -m bench.episodes
    python -m bench.episodes --data-dir data/CHAOST2 --supervoxel-dir data/CHAOST2

The default is five synthetic scans of 36 x 256 x 256.
"""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch

from bench import formatting
from bench.measuring import MB, ONE_THREAD, Measurement, measure_alternately, measure_in_process, time_calls
from bench.naive.naive_episodes import make_episode
from bench.sections import Headline, Section, Table, benchmark_parser, write_section
from bench.synthetic import SHAPE, chaost2_layout, make_scans
from dataloaders.episodes import EpisodeConfig, EpisodeDataset, make_episode_loader
from dataloaders.prepared_scans import PreparedScan, load_scans

SHOTS = (1, 3, 5)
N_TIMED = {"ours": 500, "naive": 50}  # episodes in each round
N_TIMED_QUICK = {"ours": 100, "naive": 10}
N_WARM_UP = 20
SEED = 2025


def main() -> None:
    """Measure and write the section."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--data-dir", help="prepared CHAOST2; default: synthetic scans")
    parser.add_argument("--supervoxel-dir", help="folder of supervoxels_<n_sv>; default: data-dir")
    options = parser.parse_args()
    source = {"data_dir": options.data_dir, "supervoxel_dir": options.supervoxel_dir}
    rounds, counts = (1, N_TIMED_QUICK) if options.quick else (3, N_TIMED)
    measured = {}
    for n_shots in SHOTS:
        variants = {
            name: (
                "bench.episodes:time_episodes",
                {**source, "variant": name, "n_shots": n_shots, "n_episodes": n},
            )
            for name, n in counts.items()
        }
        measured[n_shots] = measure_alternately(variants, rounds=rounds, environment=ONE_THREAD)
    ours, naive = measured[SHOTS[0]].values()
    data = "{n_scans} scans of about {shape}, {n_targets} supervoxels".format(**ours.extra)
    section = Section(
        title="Episodes",
        intro=(
            f"{data}, one thread. Ours samples from an index of all windows, built once, and warps one "
            "channel once. The naive version searches a scan for each episode and deforms three channels "
            "twice with SciPy. Working memory is the peak that Python and NumPy allocate for an episode, "
            "without the loaded volumes."
        ),
        tables=[_shots_table(measured), _loader_table(source, quick=options.quick)],
        headline=[
            Headline(
                f"one episode, {SHOTS[0]} shot",
                *(f"{formatting.times(m)}, working {_working_memory(m)}" for m in (ours, naive)),
                formatting.time_ratio(naive, ours),
                f"{naive.extra['working_mb'] / ours.extra['working_mb']:.1f}x",
                ">= 15x",
            )
        ],
    )
    write_section("episodes", section, device=options.device, quick=options.quick)


def time_episodes(
    n_episodes: int, *, variant: str = "ours", n_shots: int = 1, **source: Any
) -> dict[str, object]:
    """Time episodes in this process; `source` are the arguments of `load`."""
    scans = load(**source)
    dataset = EpisodeDataset(scans, EpisodeConfig(seed=SEED, n_episodes=n_episodes, n_shots=n_shots))
    generator = np.random.default_rng(SEED)
    make = {
        "ours": dataset.__getitem__,
        "naive": lambda _: make_episode(scans, generator, n_shots=n_shots),
    }[variant]
    make(0)
    indices = iter(range(n_episodes))
    return {
        "seconds": time_calls(lambda: make(next(indices)), n_episodes, warm_up=0),
        "working_mb": trace_peak_mb(make),
        "n_scans": len(scans),
        "shape": " x ".join(map(str, scans[0].image.shape)),
        "n_targets": len(dataset.index.target_ids),
    }


def trace_peak_mb(make: Callable[[int], object]) -> float:
    """Trace the peak memory that Python and NumPy allocate while making episodes."""
    tracemalloc.start()
    for i in range(5):
        make(i)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MB


def time_loader(n_workers: int, n_episodes: int, **source: Any) -> dict[str, object]:
    """Time the loader per episode, with batches of one, after a warm-up."""
    dataset = EpisodeDataset(load(**source), EpisodeConfig(seed=SEED, n_episodes=N_WARM_UP + n_episodes))
    batches = iter(make_episode_loader(dataset, batch_size=1, num_workers=n_workers))
    [first_seconds, *_] = time_calls(lambda: next(batches), N_WARM_UP, warm_up=0)
    started = time.perf_counter()
    n_loaded = sum(1 for _ in batches)
    return {"seconds": [(time.perf_counter() - started) / n_loaded], "first_seconds": first_seconds}


def load(
    data_dir: str | None = None,
    supervoxel_dir: str | None = None,
    n_scans: int = 5,
    n_slices: int = SHAPE[0],
) -> list[PreparedScan]:
    """Load or make scans, and limit this process to one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if data_dir is None:
        return make_scans(n_scans, (n_slices, *SHAPE[1:]))
    layout = chaost2_layout(Path(data_dir), supervoxel_dir and Path(supervoxel_dir))
    return load_scans(layout, layout.scan_ids(), with_labels=False, with_supervoxels=True)


def _shots_table(measured: dict[int, dict[str, Measurement]]) -> Table:
    rows = []
    for n_shots, variants in measured.items():
        cells = [cell for m in variants.values() for cell in (formatting.times(m), _working_memory(m))]
        rows.append([str(n_shots), *cells, formatting.time_ratio(variants["naive"], variants["ours"])])
    columns = ["shots", "ours", "working memory", "naive", "working memory", "ratio"]
    return Table("One episode:", columns, rows)


def _loader_table(source: dict[str, Any], *, quick: bool) -> Table:
    rows = []
    for n_workers in (0, 1, 2):
        arguments = {**source, "n_workers": n_workers, "n_episodes": 200 if quick else 1000}
        rounds = [
            measure_in_process("bench.episodes:time_loader", environment=ONE_THREAD, **arguments)
            for _ in range(1 if quick else 3)
        ]
        rates = [1 / m.median for m in rounds]
        first_seconds = median(m.extra["first_seconds"] for m in rounds)
        rate = f"{median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})"
        rows.append([str(n_workers), rate, f"{1000 * first_seconds:.0f} ms"])
    return Table(
        "The loader alone, batches of one episode:",
        ["workers", "episodes per second", "time to the first"],
        rows,
    )


def _working_memory(measurement: Measurement) -> str:
    return f"{measurement.extra['working_mb']:.1f} MB"


if __name__ == "__main__":
    main()
