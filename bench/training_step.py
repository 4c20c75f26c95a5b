"""Time a training step: naive network, parts, and compute bound.

python -m bench.training_step [--quick] [--device cuda]
"""

from typing import Any

from bench import formatting
from bench.comparison import (
    STEP,
    comparison_table,
    describe_network,
    headline_rows,
    list_precisions,
    network_arguments,
)
from bench.measuring import Measurement, measure_alternately, measure_in_process
from bench.roofline import measure_rates, roofline_table
from bench.sections import Section, Table, benchmark_parser, write_section

TARGETS = {"fp32": "time >= 3x, memory >= 3x", "bf16": "time >= 6x against naive fp32, memory >= 3x"}
STEPS_PER_FOLD = 40_000


def main() -> None:
    """Measure all variants and write the section."""
    options = benchmark_parser(__doc__).parse_args()
    on_cuda = options.device.startswith("cuda")
    precisions = list_precisions(options.device)
    shared = network_arguments(options)
    variants = _variants({**shared, "repeats": 10 if on_cuda else 2}, precisions, on_cuda=on_cuda)
    measured = measure_alternately(variants, rounds=1 if options.quick else 2)
    profiled = {
        precision: measure_in_process(
            STEP, **shared, repeats=0, count_flop=True, time_parts=True, precision=precision
        )
        for precision in precisions
    }
    naive = measure_in_process(STEP, **shared, repeats=0, count_flop=True, variant="naive")
    rates = measure_rates(precisions, options.device)
    section = Section(
        title="Training step",
        intro=(
            "One step of one episode: forward passes in both directions, backward pass and optimiser; "
            f"{describe_network(options)}. Each run is a separate process that warms up on small slices. The "
            "naive network (`bench/naive/naive_network.py`) has the same encoder, parameters, number "
            "format and threads."
        ),
        tables=[
            comparison_table("Time and memory of a step", "step", measured),
            roofline_table(measured, profiled, rates, unit="step"),
            _parts_table(profiled),
        ],
        remarks=_remarks(measured, profiled, naive, on_cuda=on_cuda),
        headline=headline_rows("training step", measured, TARGETS),
    )
    write_section("training_step", section, device=options.device, quick=options.quick)


def _variants(
    shared: dict[str, Any], precisions: tuple[str, ...], *, on_cuda: bool
) -> dict[str, tuple[str, dict[str, Any]]]:
    arguments = {}
    for precision in precisions:
        arguments[f"{precision} fast"] = {"precision": precision}
        if precision != "tf32":
            arguments[f"{precision} naive"] = {"precision": precision, "variant": "naive"}
    if on_cuda:
        for precision in precisions:
            arguments[f"{precision} compiled"] = {"precision": precision, "compile": True}
        arguments["bf16 not channels-last"] = {"precision": "bf16", "channels_last": False}
    return {name: (STEP, {**shared, **changes}) for name, changes in arguments.items()}


def _remarks(
    measured: dict[str, Measurement], profiled: dict[str, Measurement], naive: Measurement, *, on_cuda: bool
) -> list[str]:
    remarks = [
        f"The naive step takes {naive.extra['flop'] / 1e12:.2f} TFLOP in matrix products and convolutions, "
        f"ours {profiled['fp32'].extra['flop'] / 1e12:.2f} (including the attention logits that the "
        "backward pass recomputes).",
        "If it predicts no foreground, the naive network skips the alignment direction, as its shortest runs "
        "may show; ours never skips it.",
    ]
    if on_cuda:
        ours = {name: measurement for name, measurement in measured.items() if "naive" not in name}
        hours = ", ".join(f"{name} {m.median * STEPS_PER_FOLD / 3600:.1f} h" for name, m in ours.items())
        remarks.append(f"Projected time for the {STEPS_PER_FOLD} steps of a fold: {hours}.")
    return remarks


def _parts_table(profiled: dict[str, Measurement]) -> Table:
    rows = []
    for part in profiled["fp32"].extra["parts"]:
        cells = [part]
        for measurement in profiled.values():
            seconds = measurement.extra["parts"]
            cells += [formatting.duration(seconds[part]), f"{seconds[part] / seconds['whole step']:.0%}"]
        rows.append(cells)
    columns = ["part", *(cell for precision in profiled for cell in (precision, "share"))]
    return Table(
        "Time by part, both directions together (one step, synchronised after each part)", columns, rows
    )


if __name__ == "__main__":
    main()
