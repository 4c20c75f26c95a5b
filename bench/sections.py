"""Benchmark results as sections of a page: data model and JSON files.

`bench.results_page` builds the page from all sections.
"""

import argparse
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bench.machine import describe_machine, describe_versions
from bench.measuring import ROOT
from util.io.json_files import write_json


@dataclass(frozen=True)
class Table:
    """A table of formatted cells."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Plot:
    """A plot's file name in the `plots` folder, and its caption."""

    file: str
    caption: str


@dataclass(frozen=True)
class Headline:
    """A formatted row of the summary: fast path, naive implementation and target."""

    name: str
    fast: str
    naive: str
    ratio: str
    memory_ratio: str = ""
    target: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One benchmark's results; `write_section` fills in the last three fields."""

    title: str
    intro: str
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    headline: list[Headline] = field(default_factory=list)
    command: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def benchmark_parser(description: str) -> argparse.ArgumentParser:
    """Create a parser with the options of every benchmark, `--quick` and `--device`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="take under a minute; write to build/bench")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    return parser


def output_dir(*, quick: bool = False) -> Path:
    """Return the folder of results, plots and page; quick runs have a separate one."""
    return ROOT / "build" / "bench" if quick else ROOT / "bench"


def write_section(name: str, section: Section, *, device: str = "cpu", quick: bool = False) -> Path:
    """Write a section to `results/<device>/<name>.json` and return the path."""
    path = output_dir(quick=quick) / "results" / device.split(":")[0] / f"{name}.json"
    section = replace(
        section,
        command=f"bash bench/run.sh {name}" + ("" if device == "cpu" else f" --device {device}"),
        machine=describe_machine(device),
        versions=describe_versions(),
    )
    write_json(path, asdict(section), ensure_ascii=False)
    print(f"wrote {path.relative_to(ROOT)}", flush=True)
    return path
