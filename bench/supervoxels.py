"""Time supervoxels of a scan against sorted edge lists, and of a dataset.

    python -m bench.supervoxels
    python -m bench.supervoxels --image data/CHAOST2/chaos_MR_T2_normalized/image_1.nii.gz
    python -m bench.supervoxels --data-dir data/CHAOST2

The default is a synthetic scan of 36 x 256 x 256. All implementations must give the same result. The
union-find of the naive ones is compiled too, so the ratios compare how edges are enumerated and sorted.
"""

import argparse
import importlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.formatting import duration, memory, memory_ratio, time_ratio, times
from bench.measuring import (
    ONE_THREAD,
    ROOT,
    Measurement,
    max_rss_mb,
    measure_alternately,
    measure_in_process,
)
from bench.plotting import plot_lines
from bench.sections import Headline, Plot, Section, Table, benchmark_parser, write_section
from bench.synthetic import SHAPE, SPACING_MM, make_volume, write_dataset
from data.supervoxels.segmentation import scale_intensities
from util.io.image_io import read_volume

NAMES = {"ours": "ours", "compact": "compact edge list", "textbook": "textbook edge list"}
TIME_VARIANT = "bench.cases.supervoxel_cases:time_variant"  # a module with few imports


def main() -> None:
    """Measure and write the section."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--image", help="scan to segment in place of the synthetic one; skips the rest")
    parser.add_argument("--data-dir", help="prepared CHAOST2 in place of synthetic scans, for the command")
    parser.add_argument("--min-size", type=int, default=5000, help="minimum supervoxel size in voxels")
    options = parser.parse_args()
    measured = measure_variants(options, extensions_dir=build_extensions())
    ours, compact, textbook = (measured[name] for name in NAMES)
    rows = [
        [NAMES[name], times(m), memory(m), time_ratio(m, ours), memory_ratio(m, ours)]
        for name, m in measured.items()
    ]
    tables = [Table("One scan:", ["", "time", "peak memory", "time / ours", "memory / ours"], rows)]
    plots = []
    if not options.image:
        tables.append(dataset_table(options))
        plots.append(growth_plot(quick=options.quick))
    section = Section(
        title="Supervoxels",
        intro=(
            f"One scan of {' x '.join(map(str, ours.extra['shape']))}, minimum size {options.min_size} "
            f"voxels, one thread. All implementations give the same {ours.extra['n_segments']} segments, "
            "voxel by voxel. The textbook implementation lists all edges as int64 pairs with float64 "
            "weights, sorts them with NumPy and merges them in two compiled loops; the compact one does the "
            "same with 32-bit numbers. Memory is that of the whole process; Python and its imports take "
            f"{ours.extra['import_mb']:.0f} MB of it."
        ),
        tables=tables,
        plots=plots,
        headline=[
            headline("supervoxels of a scan, against the textbook", ours, textbook, ">= 10x, memory >= 4x"),
            headline("supervoxels of a scan, against the compact list", ours, compact, ""),
        ],
    )
    write_section("supervoxels", section, device=options.device, quick=options.quick)


def measure_variants(options: argparse.Namespace, *, extensions_dir: str) -> dict[str, Measurement]:
    """Measure all implementations on the same scan; exits unless they agree."""
    n_slices = 12 if options.quick else SHAPE[0]
    with scan_file(options.image, n_slices=n_slices) as scan:
        shared = {"scan": scan, "min_size_vox": options.min_size, "extensions_dir": extensions_dir}
        variants = {
            name: (TIME_VARIANT, {**shared, "variant": name, "repeats": 5 if name == "ours" else 1})
            for name in NAMES
        }
        measured = measure_alternately(variants, rounds=1 if options.quick else 3, environment=ONE_THREAD)
    if len({m.extra["digest"] for m in measured.values()}) > 1:
        sys.exit("error: the implementations give different supervoxels")
    return measured


@contextmanager
def scan_file(image: str | None, *, n_slices: int) -> Iterator[str]:
    """Yield the path of a real or synthetic scan in 0..255 with its spacing."""
    if image:
        volume, geometry = read_volume(Path(image))
        spacing_mm = geometry.spacing_mm
    else:
        volume, spacing_mm = make_volume(2025, (n_slices, *SHAPE[1:])), SPACING_MM
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder, "scan.npz")
        np.savez(path, volume=scale_intensities(volume), spacing_mm=spacing_mm)
        yield str(path)


def time_dataset(data_dir: str | None, n_scans: int, n_workers: int) -> dict[str, object]:
    """Time the command that generates a dataset's supervoxels, in seconds per scan."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if data_dir is None:
            write_dataset(Path(folder), n_scans, with_supervoxels=False)
        command = [sys.executable, "-m", "data.supervoxels", "--dataset", "CHAOST2"]
        command += ["--data-dir", data_dir or folder, "--supervoxel-dir", folder, "--workers", str(n_workers)]
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        n_files = len(list(Path(folder, "supervoxels_5000").glob("*.nii.gz")))
    peak_mb = max_rss_mb(resource.RUSAGE_CHILDREN)
    return {"seconds": [seconds / n_files], "peak_mb": peak_mb, "n_scans": n_files}


def dataset_table(options: argparse.Namespace) -> Table:
    """Measure the whole command with one and two workers."""
    rows = []
    for n in (1, 2):
        m = measure_in_process(
            "bench.supervoxels:time_dataset",
            rounds=1 if options.quick else 3,
            environment=ONE_THREAD,
            data_dir=options.data_dir,
            n_scans=2 if options.quick else 8,
            n_workers=n,
        )
        rows.append([str(n), str(m.extra["n_scans"]), times(m), memory(m)])
    caption = (
        "The whole command, `python -m data.supervoxels`, including start-up, reading, checking and writing:"
    )
    return Table(caption, ["workers", "scans", "time per scan", "peak memory of the largest process"], rows)


def growth_plot(*, quick: bool) -> Plot:
    """Measure and plot our time against the number of slices."""
    counts = (6, 12, 24) if quick else (9, 18, 36, 72, 144)
    seconds = []
    for n_slices in counts:
        with scan_file(None, n_slices=n_slices) as scan:
            measured = measure_in_process(
                TIME_VARIANT,
                environment=ONE_THREAD,
                scan=scan,
                variant="ours",
                min_size_vox=5000,
                extensions_dir="",
                repeats=3,
            )
        seconds.append(measured.median)
    per_voxel_ns = [1e9 * time / (n * 256 * 256) for time, n in zip(seconds, counts, strict=True)]
    caption = (
        f"Supervoxels against the number of slices of 256 x 256: {duration(seconds[0])} for "
        f"{counts[0]}, {duration(seconds[-1])} for {counts[-1]}; "
        f"{per_voxel_ns[0]:.0f} and {per_voxel_ns[-1]:.0f} ns per voxel."
    )
    return plot_lines(
        "supervoxels_slices.png",
        {"ours": (counts, seconds)},
        labels=("slices", "time (s)"),
        caption=caption,
        quick=quick,
    )


def headline(name: str, ours: Measurement, naive: Measurement, target: str) -> Headline:
    """Compare time and memory in a row of the summary."""
    cells = [f"{times(m)}, {memory(m)}" for m in (ours, naive)]
    return Headline(name, *cells, time_ratio(naive, ours), memory_ratio(naive, ours), target)


def build_extensions() -> str:
    """Compile the naive implementations; returns their folder."""
    import pyximport

    sys.path.insert(0, str(ROOT / "bench" / "naive"))
    pyximport.install(build_dir=str(ROOT / "build" / "bench"), language_level=3)
    modules = [importlib.import_module(name) for name in ("supervoxels_compact", "supervoxels_textbook")]
    return str(Path(modules[0].__file__).parent)


if __name__ == "__main__":
    main()
