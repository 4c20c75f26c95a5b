"""Show how the network's cost grows with size, batch, shots and slices.

python -m bench.growth [--quick] [--device cuda]
"""

import math
from typing import Any

from bench.measuring import Measurement, measure_in_process
from bench.plotting import plot_lines
from bench.sections import (
    Plot,
    Section,
    Table,
    benchmark_parser,
    format_duration,
    format_memory,
    write_section,
)

STEP, SLICE = "bench.cases.network:time_training", "bench.cases.network:time_evaluation"
SIZES_PX = (128, 192, 256, 384, 512)
NAIVE_SIZES_PX = (128, 192, 256)  # beyond, its memory exceeds a workstation's
COUNTS = (1, 2, 4, 8)
SHOTS = (1, 2, 3, 5)
SMALL_PX = 128  # where something else than the size grows
QUICK = {"encoder": "resnet18", "feature_width": 64}

Series = dict[float, Measurement]


def main() -> None:
    """Measure every dependence, plot it and say it in a sentence."""
    options = benchmark_parser(__doc__).parse_args()
    quick = options.quick
    shared: dict[str, Any] = {"device": options.device, **(QUICK if quick else {})}
    sizes = (32, 64, 96) if quick else SIZES_PX
    naive_sizes = sizes[:2] if quick else NAIVE_SIZES_PX
    small = {**shared, "size_px": 32 if quick else SMALL_PX}
    precision = {"precision": "bf16"} if options.device.startswith("cuda") else {}

    def step(values: tuple[int, ...], key: str, **more: Any) -> Series:
        return {v: measure_in_process(STEP, **{**shared, **precision, **more, key: v}) for v in values}

    def slices(values: tuple[int, ...], key: str, **more: Any) -> Series:
        return {v: measure_in_process(SLICE, **{**shared, **precision, **more, key: v}) for v in values}

    of_size = {"ours": step(sizes, "size_px"), "naive": step(naive_sizes, "size_px", variant="naive")}
    of_slices = {"ours": _whole_times(slices(COUNTS, "n_slices", **small))}
    cases = {
        "size": (of_size, "slice height and width in px", "training step in s"),
        "evaluation_size": (
            {"ours": slices(sizes, "size_px", n_slices=1)},
            "slice height and width in px",
            "segmented slice in s",
        ),
        "batch": ({"ours": step(COUNTS, "batch_size", **small)}, "episodes a step", "training step in s"),
        "shots": (
            {"ours": step(SHOTS, "n_shots", **small)},
            "support slices an episode",
            "training step in s",
        ),
        "slices": (of_slices, "query slices", "segmentation in s, support prepared"),
    }
    plots = [_plot(name, *case, options=options) for name, case in cases.items()]
    tables = [_table(plot.caption, case[0]) for plot, case in zip(plots, cases.values(), strict=True)]
    section = Section(
        title=f"Growth ({options.device})",
        command="bash bench/run.sh growth"
        + ("" if options.device == "cpu" else f" --device {options.device}"),
        intro=(
            f"ResNet-101, width 512, {'bf16' if precision else 'fp32'}, one run for each point; batch, shots "
            f"and slices at {small['size_px']} x {small['size_px']}. An exponent of 1 is proportional "
            "growth. Growth with the number of scans is in the section on start-up."
        ),
        tables=tables,
        plots=plots,
    )
    write_section("growth", section, options.device, quick=quick)


def _whole_times(per_slice: Series) -> Series:
    """Turn times a slice into times of all slices."""
    return {
        n: Measurement(tuple(n * seconds for seconds in one.seconds), one.peak_mb, one.extra)
        for n, one in per_slice.items()
    }


def _plot(name: str, series: dict[str, Series], x_label: str, y_label: str, *, options: Any) -> Plot:
    ours = series["ours"]
    caption = (
        f"{y_label.split(' in s')[0].capitalize()} against {x_label.split(' in px')[0]}: exponent "
        f"{_exponent(ours, lambda one: one.median):.2f} in time between the first and the last point, "
        f"{_exponent(ours, lambda one: one.peak_mb - one.extra['import_mb']):.2f} in memory beyond imports."
    )
    lines = {n: (list(points), [one.median for one in points.values()]) for n, points in series.items()}
    prefix = "" if options.device == "cpu" else "cuda_"
    return plot_lines(
        f"{prefix}growth_{name}.png",
        lines,
        x_label=x_label,
        y_label=y_label,
        caption=caption,
        log_scale=True,
        quick=options.quick,
    )


def _exponent(series: Series, value: Any) -> float:
    (first, low), *_, (last, high) = ((x, value(one)) for x, one in series.items())
    return math.log(high / low) / math.log(last / first)


def _table(caption: str, series: dict[str, Series]) -> Table:
    xs = list(series["ours"])
    rows = []
    for name, points in series.items():
        rows.append([name, "time", *(format_duration(points[x].median) if x in points else "" for x in xs)])
        rows.append([name, "peak memory", *(format_memory(points[x]) if x in points else "" for x in xs)])
    return Table(caption, ["variant", "", *(f"{x:g}" for x in xs)], rows)


if __name__ == "__main__":
    main()
