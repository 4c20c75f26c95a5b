"""Compare memory allocators by the processor time of steps and slices.

python -m bench.allocators [--quick]
"""

import statistics
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

from bench import formatting
from bench.comparison import SLICE, STEP
from bench.measuring import ONE_THREAD, Measurement, measure_in_process
from bench.sections import Section, Table, benchmark_parser, write_section

DEFAULT = "glibc"
_KEEP = f"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={1 << 40}"
_SETTINGS = {
    DEFAULT: {},
    "glibc, memory kept": {"GLIBC_TUNABLES": _KEEP},
    "glibc, memory kept, huge pages": {"GLIBC_TUNABLES": f"{_KEEP}:glibc.malloc.hugetlb=1"},
}
_PRELOADED = ("jemalloc", "mimalloc")
_LIBRARY_DIRS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/lib")
SMALL = {"size_px": 64, "model": {"encoder": "resnet18", "feature_width": 64}}
LARGE = {"size_px": 128}
INTRO = (
    "Processor time (user and system) of a training step and of a slice in one thread, measured in "
    "turn; median of all runs. It includes the kernel's work of supplying pages, which an allocator can "
    "avoid. `memory kept`: blocks of any size come from a heap that never shrinks "
    f"(`GLIBC_TUNABLES={_KEEP}`). jemalloc and mimalloc are preloaded."
)
WORTHWHILE = 0.05  # share of the processor time that a setting must save to be adopted


def main() -> None:
    """Measure every case with every allocator in turn, and write the section."""
    options = benchmark_parser(__doc__).parse_args()
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "Training step, ResNet-18, width 64, 64 x 64": (STEP, {**SMALL, "n_usages": 3}),
        "Evaluated slice, ResNet-18, width 64, 64 x 64": (SLICE, {**SMALL, "n_usages": 3, "n_slices": 8}),
    }
    if not options.quick:
        cases["Training step, ResNet-101, width 512, 128 x 128"] = (STEP, {**LARGE, "n_usages": 1})
        cases["Evaluated slice, ResNet-101, width 512, 128 x 128"] = (
            SLICE,
            {**LARGE, "n_usages": 2, "n_slices": 2},
        )
    allocators = dict(list_allocators())
    tables, remarks = [], []
    for caption, case in cases.items():
        measured = _measure(case, allocators, rounds=1 if options.quick else 2)
        tables.append(make_table(caption, measured, n_slices=case[1].get("n_slices", 1)))
        remarks.append(make_remark(caption, measured))
    section = Section(
        title="Memory allocators",
        intro=INTRO,
        tables=tables,
        remarks=remarks,
    )
    write_section("allocators", section, quick=options.quick)


def list_allocators() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name and the environment of each allocator that this machine has."""
    yield from _SETTINGS.items()
    for name in _PRELOADED:
        file_name = find_library(name)
        candidates = [Path(folder, file_name) for folder in _LIBRARY_DIRS if file_name]
        for path in [path for path in candidates if path.is_file()][:1]:
            yield name, {"LD_PRELOAD": str(path)}


def _measure(
    case: tuple[str, dict[str, Any]], allocators: dict[str, dict[str, str]], *, rounds: int
) -> dict[str, list[Measurement]]:
    target, arguments = case
    measured: dict[str, list[Measurement]] = {name: [] for name in allocators}
    for _ in range(rounds):
        for name, environment in allocators.items():
            environment = {**ONE_THREAD, **environment}
            measured[name].append(measure_in_process(target, environment=environment, repeats=1, **arguments))
    return measured


def _median(measurements: list[Measurement], key: str) -> float:
    return statistics.median(usage[key] for m in measurements for usage in m.extra["usages"])


def _times(measurements: list[Measurement]) -> list[float]:
    return [usage["cpu_s"] for m in measurements for usage in m.extra["usages"]]


def _saving(measured: dict[str, list[Measurement]], name: str) -> float:
    return 1 - _median(measured[name], "cpu_s") / _median(measured[DEFAULT], "cpu_s")


def make_table(caption: str, measured: dict[str, list[Measurement]], *, n_slices: int) -> Table:
    """Compare the allocators' processor time, per step or slice, with the default's."""
    rows = []
    for name, measurements in measured.items():
        usages = [usage for measurement in measurements for usage in measurement.extra["usages"]]
        cells = [
            formatting.times(Measurement(tuple(usage["cpu_s"] / n_slices for usage in usages), 0.0)),
            formatting.duration(max(_median(measurements, "system_s") / n_slices, 1e-6)),
            f"{_median(measurements, 'page_faults') / n_slices:.0f}",
            formatting.memory(max(measurements, key=lambda measurement: measurement.peak_mb)),
            f"{_saving(measured, name):+.1%}",
        ]
        rows.append([name, *cells])
    columns = ["allocator", "processor time", "of which system", "page faults", "peak memory", "saved"]
    return Table(caption, columns, rows)


def make_remark(caption: str, measured: dict[str, list[Measurement]]) -> str:
    """Describe the kernel's share of the time, and whether a setting is worthwhile.

    It is if all its runs are faster than all of the default's.
    """
    default = measured[DEFAULT]
    share = _median(default, "system_s") / _median(default, "cpu_s")
    best = max(measured, key=lambda name: _saving(measured, name))
    saved = _saving(measured, best)
    slowest, fastest = max(_times(measured[best])), min(_times(default))
    verdict = "worthwhile" if slowest < fastest else "within the scatter of the runs"
    if saved < WORTHWHILE:
        verdict = f"less than {WORTHWHILE:.0%}"
    finding = "none is faster" if best == DEFAULT else f"{best} saves {saved:.1%}, {verdict}"
    return f"{caption}: the kernel works for {share:.1%} of {DEFAULT}'s processor time; {finding}."


if __name__ == "__main__":
    main()
