"""Time the segmentation of slices and volumes against the naive network.

python -m bench.evaluation [--quick] [--device cuda]
"""

from typing import Any

from bench import formatting
from bench.comparison import (
    SLICE,
    VOLUME,
    comparison_table,
    describe_network,
    headline_rows,
    list_precisions,
    network_arguments,
)
from bench.measuring import Measurement, measure_alternately, measure_in_process
from bench.roofline import measure_rates, roofline_table
from bench.sections import Section, Table, benchmark_parser, write_section

TARGETS = {"fp32": "time >= 4x", "bf16": "time >= 7x against naive fp32"}
N_ORGANS, SLICES_PER_ORGAN = 4, 6
SLICES_PER_CALL = (1, 2, 4, 8)


def main() -> None:
    """Measure all variants and write the section."""
    options = benchmark_parser(__doc__).parse_args()
    precisions = list_precisions(options.device)
    shared = network_arguments(options)
    variants = _variants(shared, precisions, on_cuda=options.device.startswith("cuda"))
    measured = measure_alternately(variants, rounds=1 if options.quick else 2)
    counted = {
        precision: measure_in_process(SLICE, **shared, precision=precision, count_flop=True)
        for precision in precisions
    }
    tables = [
        comparison_table(
            "Time and memory of a slice", "slice", measured, details={"support, once": _support_time}
        ),
        _volumes_table(shared, measured, slices_per_organ=3 if options.quick else SLICES_PER_ORGAN),
        roofline_table(measured, counted, measure_rates(precisions, options.device), unit="slice"),
        _calls_table(shared, precisions[-1]),
    ]
    section = Section(
        title="Evaluation",
        intro=(
            f"A query slice, encoded and segmented for one organ; {describe_network(options)}. Our "
            "network prepares the support once and segments one slice per call, which is fastest on a CPU "
            "(16 on a GPU); the naive network encodes the support again for each slice."
        ),
        tables=tables,
        headline=headline_rows("evaluated slice", measured, TARGETS),
    )
    write_section("evaluation", section, device=options.device, quick=options.quick)


def _variants(
    shared: dict[str, Any], precisions: tuple[str, ...], *, on_cuda: bool
) -> dict[str, tuple[str, dict[str, Any]]]:
    variants = {}
    for precision in precisions:
        fast = {**shared, "precision": precision, "repeats": 3 if on_cuda else 1}
        slices = {"n_slices": 64, "per_call": 16} if on_cuda else {"n_slices": 4}
        variants[f"{precision} fast"] = (SLICE, {**fast, **slices})
        if precision != "tf32":
            naive = {**fast, "variant": "naive", "n_slices": 8 if on_cuda else 1}
            variants[f"{precision} naive"] = (SLICE, naive)
    return variants


def _support_time(measurement: Measurement) -> str:
    seconds = measurement.extra.get("support_seconds")
    return "" if seconds is None else formatting.duration(seconds)


def _volumes_table(
    shared: dict[str, Any], measured: dict[str, Measurement], *, slices_per_organ: int
) -> Table:
    """Measure volumes in each format with a target; the naive time is that of so many slices."""
    rows = []
    for precision in (name for name in TARGETS if f"{name} fast" in measured):
        volume = measure_in_process(
            VOLUME, **shared, precision=precision, n_organs=N_ORGANS, slices_per_organ=slices_per_organ
        )
        naive = volume.extra["n_slices"] * measured[f"{precision} naive"].median
        cells = [formatting.times(volume), formatting.memory(volume), formatting.duration(naive)]
        rows.append([precision, *cells, f"{naive / volume.median:.1f}x"])
    caption = (
        f"A volume: {N_ORGANS} organs of {slices_per_organ} slices, three supports per organ, each slice "
        "encoded once for all organs; the naive time is extrapolated from one slice"
    )
    return Table(caption, ["format", "ours", "peak memory", "naive", "ratio"], rows)


def _calls_table(shared: dict[str, Any], precision: str) -> Table:
    """Measure different numbers of slices per call."""
    rows = []
    for n in SLICES_PER_CALL:
        measurement = measure_in_process(SLICE, **shared, per_call=n, n_slices=8, precision=precision)
        rows.append([str(n), formatting.times(measurement), formatting.memory(measurement)])
    return Table(f"Slices per call ({precision})", ["slices per call", "slice", "peak memory"], rows)


if __name__ == "__main__":
    main()
