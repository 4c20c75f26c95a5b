"""Time the segmentation of slices and volumes against the naive twin.

python -m bench.evaluation [--quick] [--device cuda]
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

SLICE = "bench.cases.network:time_evaluation"
VOLUME = "bench.cases.network:time_volume"
QUICK = {"size_px": 64, "encoder": "resnet18", "feature_width": 64}
TARGETS = {"fp32": "time >= 4x", "bf16": "time >= 7x against naive fp32"}
N_ORGANS, ORGAN_SLICES = 4, 6
SLICES_PER_CALL = (1, 2, 4, 8)


def main() -> None:
    """Measure all variants and write the section."""
    options = benchmark_parser(__doc__).parse_args()
    on_cuda = options.device.startswith("cuda")
    size = QUICK if options.quick else {}
    precisions = ("fp32", "tf32", "bf16") if on_cuda else ("fp32", "bf16")
    shared = {"device": options.device, **size}
    variants: dict[str, tuple[str, dict[str, Any]]] = {}
    for precision in precisions:
        fast = {**shared, "precision": precision, "repeats": 3 if on_cuda else 1}
        of_device = {"n_slices": 64, "per_call": 16} if on_cuda else {"n_slices": 4}
        variants[f"{precision} fast"] = (SLICE, {**fast, **of_device})
        if precision != "tf32":
            naive = {**fast, "variant": "naive", "n_slices": 8 if on_cuda else 1}
            variants[f"{precision} naive"] = (SLICE, naive)
    measured = measure_alternately(variants, rounds=1 if options.quick else 2)
    counted = {
        precision: measure_in_process(SLICE, **{**shared, "precision": precision, "count": True})
        for precision in precisions
    }
    per_call = {
        n: measure_in_process(SLICE, **{**shared, "per_call": n, "n_slices": 8, "precision": precisions[-1]})
        for n in SLICES_PER_CALL
    }
    volume = {**shared, "n_organs": N_ORGANS, "organ_slices": 3 if options.quick else ORGAN_SLICES}
    volumes = {
        precision: measure_in_process(VOLUME, **{**volume, "precision": precision})
        for precision in ("fp32", "bf16")
    }
    rates = measure_rates(precisions, options.device)
    section = Section(
        title=f"Evaluation ({options.device})",
        command="bash bench/run.sh evaluation" + (f" --device {options.device}" if on_cuda else ""),
        intro=(
            "A query slice, encoded and segmented for one organ; "
            + ("a small network (quick run)" if options.quick else "ResNet-101, 256 x 256, width 512")
            + ". Ours prepares the support once and takes one slice a call, which is best on a CPU (16 on a "
            "GPU); the naive twin encodes the support again for each slice."
        ),
        tables=[
            _times(measured),
            _volumes(volumes, measured),
            floor_table(measured, counted, rates, unit="a slice"),
            _calls(per_call, precisions[-1]),
        ],
        headline=_headline(measured),
    )
    write_section("evaluation", section, options.device, quick=options.quick)


def _times(measured: dict[str, Measurement]) -> Table:
    rows = []
    for name, measurement in measured.items():
        precision, variant = name.split(" ")
        naive = measured.get(f"{precision} naive", measured["fp32 naive"])
        support = measurement.extra.get("support_seconds")
        rows.append(
            [
                precision,
                variant,
                format_seconds(measurement),
                "" if support is None else format_duration(support),
                format_memory(measurement),
                format_ratio(naive, measurement),
                format_ratio(measured["fp32 naive"], measurement),
                format_memory_ratio(naive, measurement),
            ]
        )
    columns = ["format", "variant", "a slice", "support, once", "peak memory"]
    columns += ["naive / it", "naive fp32 / it", "memory, naive / it"]
    return Table("Time and memory of a slice", columns, rows)


def _volumes(volumes: dict[str, Measurement], measured: dict[str, Measurement]) -> Table:
    rows = []
    for precision, volume in volumes.items():
        n_slices = volume.extra["n_slices"]
        naive = n_slices * measured[f"{precision} naive"].median
        rows.append(
            [
                precision,
                format_seconds(volume),
                format_memory(volume),
                format_duration(naive),
                f"{naive / volume.median:.1f}x",
            ]
        )
    caption = (
        f"A volume: {N_ORGANS} organs in {ORGAN_SLICES} slices each, three supports an organ, each slice "
        "encoded once for all organs; the naive time is that of a slice times their number"
    )
    return Table(caption, ["format", "ours", "peak memory", "naive", "ratio"], rows)


def _calls(per_call: dict[int, Measurement], precision: str) -> Table:
    rows = [[str(n), format_seconds(one), format_memory(one)] for n, one in per_call.items()]
    return Table(f"Slices per call ({precision})", ["slices a call", "a slice", "peak memory"], rows)


def _headline(measured: dict[str, Measurement]) -> list[Headline]:
    rows = []
    for precision in ("fp32", "bf16"):
        fast, naive = measured[f"{precision} fast"], measured["fp32 naive"]
        ratio = format_ratio(naive, fast)
        if precision == "bf16":
            ratio = f"{ratio} (naive bf16: {format_ratio(measured['bf16 naive'], fast)})"
        rows.append(
            Headline(
                f"evaluated slice, {precision}",
                format_seconds(fast),
                format_seconds(naive),
                ratio,
                format_memory_ratio(naive, fast),
                TARGETS[precision],
            )
        )
    return rows


if __name__ == "__main__":
    main()
