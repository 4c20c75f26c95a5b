"""Time a training step against its naive twin, by part, and against the floor.

python -m bench.training_step [--quick] [--device cuda]
"""

from typing import Any

from bench.floor import floor_table, measure_rates
from bench.measuring import Measurement, measure_alternately, measure_in_process
from bench.sections import (
    Headline,
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

STEP = "bench.cases.network:time_training"
QUICK = {"size_px": 64, "encoder": "resnet18", "feature_width": 64}
TARGETS = {"fp32": "time >= 3x, memory >= 3x", "bf16": "time >= 6x against naive fp32, memory >= 3x"}
STEPS_OF_A_FOLD = 40_000


def main() -> None:
    """Measure all variants and write the section."""
    options = benchmark_parser(__doc__).parse_args()
    on_cuda = options.device.startswith("cuda")
    size = QUICK if options.quick else {}
    precisions = ("fp32", "tf32", "bf16") if on_cuda else ("fp32", "bf16")
    shared = {"device": options.device, "repeats": 10 if on_cuda else 2, **size}
    variants: dict[str, tuple[str, dict[str, Any]]] = {}
    for precision in precisions:
        for variant in ("fast", "naive"):
            if (precision, variant) != ("tf32", "naive"):
                variants[f"{precision} {variant}"] = (
                    STEP,
                    {**shared, "precision": precision, "variant": variant},
                )
    if on_cuda:
        for precision in precisions:
            compiled = {**shared, "precision": precision, "compile": True}
            variants[f"{precision} compiled"] = (STEP, compiled)
        variants["bf16 not channels-last"] = (STEP, {**shared, "precision": "bf16", "channels_last": False})
    measured = measure_alternately(variants, rounds=1 if options.quick else 2)
    once = {**shared, "repeats": 0, "parts": True, "count": True}
    detailed = {p: measure_in_process(STEP, **{**once, "precision": p}) for p in precisions}
    counted = measure_in_process(STEP, **{**once, "parts": False, "variant": "naive"})
    rates = measure_rates(precisions, options.device)
    section = Section(
        title=f"Training step ({options.device})",
        command="bash bench/run.sh training_step" + (f" --device {options.device}" if on_cuda else ""),
        intro=(
            "One step of one episode: both directions forward, backward, optimiser; "
            + ("a small network (quick run)" if options.quick else "ResNet-101, 256 x 256, width 512")
            + ". Each run is a process of its own that warms up on small slices. The naive twin "
            "(`bench/naive/network.py`) has the same encoder, parameters, number format and threads."
        ),
        tables=[
            _times(measured),
            floor_table(measured, detailed, rates, unit="step"),
            _parts(detailed),
        ],
        remarks=[
            f"The naive step does {counted.extra['flop'] / 1e12:.2f} TFLOP of products and convolutions, "
            f"ours {detailed['fp32'].extra['flop'] / 1e12:.2f} (the attention's logits, computed again in "
            "the backward pass, included).",
            "Where nothing is predicted as foreground the naive twin leaves out the second direction, ours "
            "never does; its shortest runs may show that.",
            *_projection(measured, on_cuda=on_cuda),
        ],
        headline=_headline(measured),
    )
    write_section("training_step", section, options.device, quick=options.quick)


def _times(measured: dict[str, Measurement]) -> Table:
    rows = []
    for name, measurement in measured.items():
        precision, variant = name.split(" ", 1)
        naive = measured.get(f"{precision} naive", measured["fp32 naive"])
        rows.append(
            [
                precision,
                variant,
                format_seconds(measurement),
                format_memory(measurement),
                format_ratio(naive, measurement),
                format_ratio(measured["fp32 naive"], measurement),
                format_memory_ratio(naive, measurement),
            ]
        )
    columns = [
        "format",
        "variant",
        "step",
        "peak memory",
        "naive / it",
        "naive fp32 / it",
        "memory, naive / it",
    ]
    return Table("Time and memory of a step", columns, rows)


def _parts(detailed: dict[str, Measurement]) -> Table:
    names = list(detailed["fp32"].extra["parts"])
    rows = []
    for name in names:
        cells = [name]
        for measurement in detailed.values():
            parts = measurement.extra["parts"]
            cells += [format_duration(parts[name]), f"{parts[name] / parts['whole step']:.0%}"]
        rows.append(cells)
    columns = ["part", *(cell for precision in detailed for cell in (precision, "share"))]
    return Table("Time by part, both directions together (one step, parts timed one by one)", columns, rows)


def _projection(measured: dict[str, Measurement], *, on_cuda: bool) -> list[str]:
    if not on_cuda:
        return []
    hours = {name: m.median * STEPS_OF_A_FOLD / 3600 for name, m in measured.items() if "naive" not in name}
    told = ", ".join(f"{name} {value:.1f} h" for name, value in hours.items())
    return [f"Projected time of a fold of {STEPS_OF_A_FOLD} steps at these rates: {told}."]


def _headline(measured: dict[str, Measurement]) -> list[Headline]:
    rows = []
    for precision in ("fp32", "bf16"):
        fast, naive = measured[f"{precision} fast"], measured[f"{precision} naive"]
        ratio = format_ratio(naive, fast)
        if precision == "bf16":
            ratio = f"{format_ratio(measured['fp32 naive'], fast)} (naive bf16: {ratio})"
        rows.append(
            Headline(
                f"training step, {precision}",
                format_seconds(fast),
                format_seconds(measured["fp32 naive"]),
                ratio,
                format_memory_ratio(measured["fp32 naive"], fast),
                TARGETS[precision],
            )
        )
    return rows


if __name__ == "__main__":
    main()
