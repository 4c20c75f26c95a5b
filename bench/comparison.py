"""Variants, tables and summary rows that the network's benchmarks share."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from bench import formatting
from bench.measuring import Measurement
from bench.sections import Headline, Table
from util.parallel.processor import has_bfloat16

CASES = "bench.cases.network_cases"
STEP, SLICE, VOLUME = (f"{CASES}:time_{name}" for name in ("training", "evaluation", "volume"))


def network_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the device, and a small network for quick runs."""
    small = {"size_px": 64, "model": {"encoder": "resnet18", "feature_width": 64}}
    return {"device": options.device, **(small if options.quick else {})}


def describe_network(options: argparse.Namespace) -> str:
    """Return the network's size for an introduction."""
    return "a small network (quick run)" if options.quick else "ResNet-101, 256 x 256, width 512"


def list_precisions(device: str) -> tuple[str, ...]:
    """List the number formats to compare.

    TF32 exists on CUDA only. A CPU without bfloat16 instructions emulates them, about 50 times as slowly.
    """
    if device.startswith("cuda"):
        return "fp32", "tf32", "bf16"
    return ("fp32", "bf16") if device != "cpu" or has_bfloat16() else ("fp32",)


def comparison_table(
    caption: str,
    unit: str,
    measured: Mapping[str, Measurement],
    *,
    details: Mapping[str, Callable[[Measurement], str]] | None = None,
) -> Table:
    """Compare `"<precision> <variant>"` with the naive variants.

    `details` are headers and cells of further columns, after the time.
    """
    details = details or {}
    rows = []
    for name, measurement in measured.items():
        precision, variant = name.split(" ", 1)
        naive_fp32 = measured["fp32 naive"]
        naive = measured.get(f"{precision} naive", naive_fp32)
        cells = [formatting.times(measurement), *(cell(measurement) for cell in details.values())]
        cells += [formatting.memory(measurement)]
        cells += [formatting.time_ratio(reference, measurement) for reference in (naive, naive_fp32)]
        rows.append([precision, variant, *cells, formatting.memory_ratio(naive, measurement)])
    columns = ["format", "variant", unit, *details, "peak memory"]
    columns += ["time, naive / variant", "time, naive fp32 / variant", "memory, naive / variant"]
    return Table(caption, columns, rows)


def headline_rows(
    name: str, measured: Mapping[str, Measurement], targets: Mapping[str, str]
) -> list[Headline]:
    """Compare the fast variant of each measured format with naive fp32."""
    naive = measured["fp32 naive"]
    rows = []
    for precision, target in targets.items():
        fast = measured.get(f"{precision} fast")
        if fast is None:
            continue
        ratio = formatting.time_ratio(naive, fast)
        if precision != "fp32":
            ratio += f" (naive {precision}: {formatting.time_ratio(measured[f'{precision} naive'], fast)})"
        cells = formatting.times(fast), formatting.times(naive), ratio, formatting.memory_ratio(naive, fast)
        rows.append(Headline(f"{name}, {precision}", *cells, target))
    return rows
