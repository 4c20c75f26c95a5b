"""Measure how the network's cost scales with size, batch, shots and slices.

python -m bench.growth [--quick] [--device cuda]
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench import formatting
from bench.comparison import SLICE, STEP, network_arguments
from bench.measuring import Measurement, measure_in_process
from bench.plotting import plot_lines
from bench.sections import Plot, Section, Table, benchmark_parser, write_section

SIZES_PX = (128, 192, 256, 384, 512)
N_NAIVE_SIZES = 3  # larger slices exceed a workstation's memory
COUNTS = (1, 2, 4, 8)
SHOTS = (1, 2, 3, 5)
SMALL_PX = 128  # slices while batch size, shots or the number of slices vary

Series = dict[int, Measurement]  # by the varied value


def main() -> None:
    """Measure, tabulate and plot each dependence."""
    options = benchmark_parser(__doc__).parse_args()
    sizes, n_naive, small_px = ((32, 64), 2, 32) if options.quick else (SIZES_PX, N_NAIVE_SIZES, SMALL_PX)
    counts, shots = ((1, 2), (1, 3)) if options.quick else (COUNTS, SHOTS)
    precision = "bf16" if options.device.startswith("cuda") else "fp32"
    shared = {**network_arguments(options), "size_px": small_px, "precision": precision}

    def measure(target: str, key: str, values: tuple[int, ...], **overrides: Any) -> Series:
        return {value: measure_in_process(target, **{**shared, **overrides, key: value}) for value in values}

    sizes_of_steps = {
        "ours": measure(STEP, "size_px", sizes),
        "naive": measure(STEP, "size_px", sizes[:n_naive], variant="naive"),
    }
    n_slices = {n: _scale_times(m, n) for n, m in measure(SLICE, "n_slices", counts).items()}
    sizes_of_slices = {"ours": measure(SLICE, "size_px", sizes, n_slices=1)}
    cases = {
        "size": (sizes_of_steps, "slice height and width in px", "training step in s"),
        "evaluation_size": (sizes_of_slices, "slice height and width in px", "segmented slice in s"),
        "batch": ({"ours": measure(STEP, "batch_size", counts)}, "episodes per step", "training step in s"),
        "shots": (
            {"ours": measure(STEP, "n_shot", shots)},
            "support slices per episode",
            "training step in s",
        ),
        "slices": ({"ours": n_slices}, "query slices", "segmentation in s, support prepared"),
    }
    plots = [_plot(name, *case, options=options) for name, case in cases.items()]
    section = Section(
        title="Growth",
        intro=(
            f"ResNet-101, width 512, {precision}, one run per point; batch size, shots and slices vary at "
            f"{small_px} x {small_px}. An exponent of 1 means proportional growth. The section on start-up "
            "covers growth with the number of scans."
        ),
        tables=[_table(plot.caption, case[0]) for plot, case in zip(plots, cases.values(), strict=True)],
        plots=plots,
    )
    write_section("growth", section, device=options.device, quick=options.quick)


def _scale_times(measurement: Measurement, factor: int) -> Measurement:
    return replace(measurement, seconds=tuple(factor * seconds for seconds in measurement.seconds))


def _plot(
    name: str, series: dict[str, Series], x_label: str, y_label: str, *, options: argparse.Namespace
) -> Plot:
    ours = series["ours"]
    caption = (
        f"{y_label.split(' in s')[0].capitalize()} against {x_label.split(' in px')[0]}: exponent "
        f"{_exponent(ours, lambda m: m.median):.2f} in time between the first and the last point, "
        f"{_exponent(ours, lambda m: m.peak_mb - m.extra['import_mb']):.2f} in memory without imports."
    )
    return plot_lines(
        f"{'' if options.device == 'cpu' else 'cuda_'}growth_{name}.png",
        {label: (list(points), [m.median for m in points.values()]) for label, points in series.items()},
        labels=(x_label, y_label),
        caption=caption,
        log_scale=True,
        quick=options.quick,
    )


def _exponent(series: Series, value: Callable[[Measurement], float]) -> float:
    (first, low), *_, (last, high) = ((x, value(measurement)) for x, measurement in series.items())
    return math.log(high / low) / math.log(last / first)


def _table(caption: str, series: dict[str, Series]) -> Table:
    xs = list(series["ours"])
    rows = []
    for name, points in series.items():
        rows.append(
            [name, "time", *(formatting.duration(points[x].median) if x in points else "" for x in xs)]
        )
        rows.append([name, "peak memory", *(formatting.memory(points[x]) if x in points else "" for x in xs)])
    return Table(caption, ["variant", "", *map(str, xs)], rows)


if __name__ == "__main__":
    main()
