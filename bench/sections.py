"""Sections of the benchmarks' page: what they hold, how they are written.

Also how numbers are printed in them. `bench.report` puts all sections into one page.
"""

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.machine import describe_machine, describe_versions
from bench.measuring import ROOT, Measurement
from util.io.files import write_text


@dataclass(frozen=True)
class Table:
    """A table of cells that are ready to print."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Plot:
    """A plot's file name in the plots' folder, and the sentence that belongs to it."""

    file: str
    caption: str


@dataclass(frozen=True)
class Headline:
    """A row of the summary, ready to print: a fast path, its naive twin, the target."""

    name: str
    fast: str
    naive: str
    ratio: str
    memory_ratio: str = ""
    target: str = ""


@dataclass(frozen=True)
class Section:
    """One benchmark's part of the report.

    Attributes:
        title: heading.
        command: what makes it again, from the repository's root.
        intro: what is measured, in a few sentences.
        tables, plots, remarks: in the order they are printed.
        headline: rows for the summary of all benchmarks.
        machine, versions: where and with what it was measured; filled in by `write_section`.
    """

    title: str
    command: str
    intro: str
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    headline: list[Headline] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def benchmark_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with every benchmark's options, `--quick` and `--device`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute, into build/bench; no record")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    return parser


def output_dir(*, quick: bool = False) -> Path:
    """Return the folder of results, plots and page; quick runs replace no record."""
    return ROOT / "build" / "bench" if quick else ROOT / "bench"


def write_section(name: str, section: Section, device: str = "cpu", *, quick: bool = False) -> Path:
    """Write a section, with machine and versions, as `results/<device>/<name>.json`.

    Returns:
        The file's path.
    """
    path = output_dir(quick=quick) / "results" / device.split(":")[0] / f"{name}.json"
    described = asdict(section)
    described["machine"] = section.machine or describe_machine(device)
    described["versions"] = section.versions or describe_versions()
    write_text(path, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {path.relative_to(ROOT)}", flush=True)
    return path


def format_duration(seconds: float) -> str:
    """Print a time with three digits in a unit that suits it: `"45.6 ms"`."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= 0.9995 * unit:
            return f"{_three_digits(seconds / unit)} {name}"
    return f"{_three_digits(seconds / 1e-6)} µs"


def format_seconds(measurement: Measurement) -> str:
    """Print median and spread: `"1.23 s (1.20-1.31)"`, all in the median's unit."""
    median = format_duration(measurement.median)
    unit = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}[median.split()[1]]
    low, high = (_three_digits(bound / unit) for bound in (measurement.low, measurement.high))
    return f"{median} ({low}-{high})"


def format_ratio(slow: Measurement, fast: Measurement) -> str:
    """Print how many times faster `fast` is, by medians: `"12.3x"`."""
    return f"{_three_digits(slow.median / fast.median)}x"


def format_memory(measurement: Measurement) -> str:
    """Print the peak: `"256 MB"`, or GB from ten thousand MB on."""
    peak_mb = measurement.peak_mb
    return f"{peak_mb:.0f} MB" if peak_mb < 1e4 else f"{peak_mb / 1e3:.1f} GB"


def format_memory_ratio(slow: Measurement, fast: Measurement) -> str:
    """Print how many times less memory `fast` takes: `"4.1x"`."""
    return f"{_three_digits(slow.peak_mb / fast.peak_mb)}x"


def _three_digits(number: float) -> str:
    for bound, n_decimals in ((9.995, 2), (99.95, 1)):
        if abs(number) < bound:
            return f"{number:.{n_decimals}f}"
    return f"{number:.0f}"
