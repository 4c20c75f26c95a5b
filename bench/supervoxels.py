"""Time the supervoxels of one scan against sorted edge lists, and of a dataset.

    python -m bench.supervoxels
    python -m bench.supervoxels --image data/CHAOST2/chaos_MR_T2_normalized/image_1.nii.gz
    python -m bench.supervoxels --data-dir data/CHAOST2

Without files it makes a synthetic scan of 36 x 256 x 256. The results of all ways must agree. The twins'
union-find is compiled too, hence the ratios are those of the ways to walk the edges.
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

from bench.measuring import MB, ROOT, Measurement, measure_alternately, measure_in_process
from bench.plotting import plot_lines
from bench.sections import (
    Headline,
    Plot,
    Section,
    Table,
    benchmark_parser,
    format_duration,
    format_memory,
    format_memory_ratio,
    format_ratio,
    format_seconds,
    write_section,
)
from bench.synthetic import SHAPE, SPACING_MM, make_volume, write_dataset
from data.supervoxels.segmentation import scale_intensities
from util.io.image_io import read_volume

NAMES = {"ours": "ours", "tight": "tight edge list", "textbook": "textbook edge list"}
TIME_VARIANT = "bench.cases.supervoxels:time_variant"  # a module that imports little
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def main() -> None:
    """Measure, and write the section."""
    options = parse_arguments()
    measured = measure_variants(options, twins_dir=build_twins())
    tables = [variants_table(measured)]
    plots = []
    if not options.image:
        tables.append(dataset_table(options))
        plots.append(growth_plot(quick=options.quick))
    ours, tight, textbook = (measured[name] for name in NAMES)
    section = Section(
        title="Supervoxels",
        command="bash bench/run.sh supervoxels",
        intro=(
            "One scan of {}, least size {} voxels, one thread. All ways give the same {} segments, voxel by "
            "voxel. The textbook's way lists all edges as int64 pairs with float64 weights, sorts them with "
            "NumPy and joins them in two compiled loops; the tight one does so with 32 bits. Memory is the "
            "whole process's; of it {:.0f} MB are Python with its imports."
        ).format(
            " x ".join(map(str, ours.extra["shape"])),
            options.min_size,
            ours.extra["n_segments"],
            ours.extra["import_mb"],
        ),
        tables=tables,
        plots=plots,
        headline=[
            headline("supervoxels of a scan, against the textbook", ours, textbook, ">= 10x, memory >= 4x"),
            headline("supervoxels of a scan, against the tight list", ours, tight, ""),
        ],
    )
    write_section("supervoxels", section, options.device, quick=options.quick)


def measure_variants(options: argparse.Namespace, *, twins_dir: str) -> dict[str, Measurement]:
    """Measure all ways on the same scan; exits unless they agree."""
    n_slices = 12 if options.quick else SHAPE[0]
    with scan_file(options.image, n_slices=n_slices) as scan:
        shared = {"scan": scan, "min_size_vox": options.min_size, "twins_dir": twins_dir}
        variants = {
            name: (TIME_VARIANT, {**shared, "variant": name, "repeats": 5 if name == "ours" else 1})
            for name in NAMES
        }
        measured = measure_alternately(variants, rounds=1 if options.quick else 3, environment=ONE_THREAD)
    if len({one.extra["digest"] for one in measured.values()}) > 1:
        sys.exit("error: the results differ")
    return measured


@contextmanager
def scan_file(image: str | None, *, n_slices: int) -> Iterator[str]:
    """Yield a file with a scan in 0..255, read or made, and its spacing."""
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
    """Time the command that makes a dataset's supervoxels; seconds are per scan."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if data_dir is None:
            write_dataset(Path(folder), n_scans, with_supervoxels=False)
        command = [sys.executable, "-m", "data.supervoxels", "--dataset", "CHAOST2"]
        command += ["--data-dir", data_dir or folder, "--supervoxel-dir", folder, "--workers", str(n_workers)]
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        n_made = len(list(Path(folder, "supervoxels_5000").glob("*.nii.gz")))
    unit = 1 if sys.platform == "darwin" else 1024
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / MB
    return {"seconds": [seconds / n_made], "peak_mb": peak_mb, "n_scans": n_made}


def variants_table(measured: dict[str, Measurement]) -> Table:
    """Lay out the comparison."""
    ours = measured["ours"]
    rows = [
        [
            NAMES[name],
            format_seconds(one),
            format_memory(one),
            format_ratio(one, ours),
            format_memory_ratio(one, ours),
        ]
        for name, one in measured.items()
    ]
    return Table("One scan:", ["", "time", "peak memory", "time, of ours", "memory, of ours"], rows)


def dataset_table(options: argparse.Namespace) -> Table:
    """Measure the whole command with one and two workers."""
    arguments = {"data_dir": options.data_dir, "n_scans": 2 if options.quick else 8}
    rows = []
    for n_workers in (1, 2):
        one = measure_alternately(
            {"": ("bench.supervoxels:time_dataset", {**arguments, "n_workers": n_workers})},
            rounds=1 if options.quick else 3,
            environment=ONE_THREAD,
        )[""]
        rows.append([str(n_workers), str(one.extra["n_scans"]), format_seconds(one), format_memory(one)])
    caption = "The whole command, `python -m data.supervoxels`, with start-up, reading, checking and writing:"
    return Table(caption, ["workers", "scans", "time per scan", "peak memory of the largest process"], rows)


def time_slices(n_slices: int) -> float:
    """Return our median time for a synthetic scan of so many slices."""
    with scan_file(None, n_slices=n_slices) as scan:
        arguments = {"variant": "ours", "scan": scan, "min_size_vox": 5000, "twins_dir": ""}
        return measure_in_process(TIME_VARIANT, environment=ONE_THREAD, repeats=3, **arguments).median


def growth_plot(*, quick: bool) -> Plot:
    """Measure our time against the number of slices and draw it."""
    counts = (6, 12, 24) if quick else (9, 18, 36, 72, 144)
    seconds = [time_slices(n_slices) for n_slices in counts]
    per_voxel = [1e9 * time / (n * 256 * 256) for time, n in zip(seconds, counts, strict=True)]
    caption = (
        f"Supervoxels against the number of slices of 256 x 256: {format_duration(seconds[0])} for "
        f"{counts[0]}, {format_duration(seconds[-1])} for {counts[-1]}; "
        f"{per_voxel[0]:.0f} and {per_voxel[-1]:.0f} ns a voxel."
    )
    return plot_lines(
        "supervoxels_slices.png",
        {"ours": (counts, seconds)},
        x_label="slices",
        y_label="time (s)",
        caption=caption,
        quick=quick,
    )


def headline(name: str, ours: Measurement, twin: Measurement, target: str) -> Headline:
    """Make a row of the summary."""
    return Headline(
        name,
        f"{format_seconds(ours)}, {format_memory(ours)}",
        f"{format_seconds(twin)}, {format_memory(twin)}",
        format_ratio(twin, ours),
        format_memory_ratio(twin, ours),
        target,
    )


def build_twins() -> str:
    """Compile the twins, so that no measured process does; return their folder."""
    import pyximport

    sys.path.insert(0, str(ROOT / "bench" / "naive"))
    pyximport.install(build_dir=str(ROOT / "build" / "bench"), language_level=3)
    built = [importlib.import_module(name) for name in ("supervoxels_edge_list", "supervoxels_textbook")]
    return str(Path(built[0].__file__).parent)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--image", help="a scan to segment instead of the synthetic one; skips the rest")
    parser.add_argument(
        "--data-dir", help="a prepared CHAOST2 for the whole command instead of synthetic scans"
    )
    parser.add_argument("--min-size", type=int, default=5000, help="least supervoxel in voxels")
    return parser.parse_args()


if __name__ == "__main__":
    main()
