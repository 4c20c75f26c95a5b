"""Measure times and memory, each variant in a process of its own.

A benchmark is a module `bench.<name>` with a `main()` that measures, makes one `Section` and writes it as
JSON with `write_section`; `bench.report` puts all sections into one page. MB are 10^6 bytes.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from util.errors import UserError
from util.files import write_text

ROOT = Path(__file__).resolve().parents[1]
VERSIONED_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "opencv-python-headless", "Cython")
MB = 1e6
USER_ERROR_CODE = 2


@dataclass(frozen=True)
class Measurement:
    """What one variant took.

    Attributes:
        seconds: time of each run, at least one.
        peak_mb: most memory held at a time: by the process, or on CUDA by PyTorch on the device.
        extra: whatever else the measured function returned; `import_mb` is the process's peak before it was
            called, that is Python and its imports.
    """

    seconds: tuple[float, ...]
    peak_mb: float
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median time in seconds."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """Shortest time in seconds."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """Longest time in seconds."""
        return max(self.seconds)


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


def measure_in_process(
    target: str, /, *, environment: Mapping[str, str] | None = None, **arguments: Any
) -> Measurement:
    """Call a function in a fresh Python, so that its peak memory is its own.

    Args:
        target: `"bench.module:function"`. It does its own set-up and returns a dictionary of JSON values with
            `seconds`, a list, and any others; `peak_mb` unless the process's own peak is meant.
        environment: variables to set beside the present ones, `{"OMP_NUM_THREADS": "1"}` say.
        arguments: for the function; JSON values.

    Raises:
        subprocess.CalledProcessError: it failed; its traceback tells why.
        SystemExit: it raised a `UserError`, which it has printed.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result_path = Path(folder, "result.json")
        command = [sys.executable, "-m", "bench.measuring", target, json.dumps(arguments), str(result_path)]
        done = subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, **(environment or {})})
        if done.returncode == USER_ERROR_CODE:  # it has told why
            sys.exit(USER_ERROR_CODE)
        done.check_returncode()
        result = json.loads(result_path.read_text(encoding="utf-8"))
    return Measurement(tuple(result.pop("seconds")), result.pop("peak_mb"), result)


def measure_alternately(
    variants: Mapping[str, tuple[str, dict[str, Any]]],
    *,
    rounds: int,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Measurement]:
    """Measure several variants in turn.

    A slow moment of the machine then meets them all.

    Args:
        variants: name -> (target, arguments), as `measure_in_process` takes them.
        rounds: how often each runs, in a fresh process each time.
        environment: as there.

    Returns:
        name -> all rounds together: their runs, the highest peak, and the last round's `extra`.
    """
    taken = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (target, arguments) in variants.items():
            taken[name].append(measure_in_process(target, environment=environment, **arguments))
    return {name: _together(measurements) for name, measurements in taken.items()}


def time_calls(
    function: Callable[[], object],
    repeats: int,
    *,
    warm_up: int = 1,
    synchronize: Callable[[], object] | None = None,
) -> list[float]:
    """Return the wall time of each call in seconds.

    The first `warm_up` calls do not count. `synchronize` waits for a device that works on its own:
    `torch.cuda.synchronize`, say.
    """
    seconds = []
    for _ in range(warm_up + repeats):
        started = time.perf_counter()
        function()
        if synchronize:
            synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def peak_memory_mb() -> float:
    """Return the most memory that this process held so far.

    Linux's own `ru_maxrss` starts at what the parent held when it started this process; VmHWM does not.
    """
    peak_mb = _status_mb("VmHWM")
    if peak_mb is not None:
        return peak_mb
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def matrix_rate(dtype: str, device: str = "cpu", *, n: int = 4096, repeats: int = 5) -> float:
    """Measure the device's rate in a product of square matrices.

    Args:
        dtype: a torch dtype's name, `"float32"` or `"bfloat16"`; TF32 is used if PyTorch is set to it.
        device: a torch device.
        n: size of the matrices.
        repeats: the fastest of so many counts.

    Returns:
        Floating point operations per second; a multiplication and an addition are two.
    """
    import torch

    on_cuda = torch.device(device).type == "cuda"
    first, second = (torch.randn(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
    synchronize = torch.cuda.synchronize if on_cuda else None
    seconds = time_calls(lambda: first @ second, repeats, warm_up=2, synchronize=synchronize)
    return 2.0 * n**3 / min(seconds)


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


def describe_machine(device: str = "cpu") -> dict[str, str]:
    """Describe processor, usable cores, memory, system and, on CUDA, the GPU."""
    machine = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "system": platform.system(),
    }
    if device.startswith("cuda"):
        import torch

        machine["device"] = torch.cuda.get_device_name(device)
    return machine


def describe_versions() -> dict[str, str]:
    """Name the versions of Python and of the packages that matter for speed."""
    versions = {"Python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def held_memory_mb() -> float:
    """Return the memory that this process holds now; its peak where that is not told."""
    held_mb = _status_mb("VmRSS")
    return peak_memory_mb() if held_mb is None else held_mb


def _status_mb(key: str) -> float | None:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024 / MB
    return None


def _together(measurements: list[Measurement]) -> Measurement:
    seconds = tuple(run for measurement in measurements for run in measurement.seconds)
    return Measurement(seconds, max(one.peak_mb for one in measurements), measurements[-1].extra)


def _three_digits(number: float) -> str:
    for bound, n_decimals in ((9.995, 2), (99.95, 1)):
        if abs(number) < bound:
            return f"{number:.{n_decimals}f}"
    return f"{number:.0f}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _run_child(target: str, arguments: str, result_path: str) -> None:
    """Do what `measure_in_process` asks, inside the fresh Python."""
    module, function_name = target.split(":")
    function = getattr(importlib.import_module(module), function_name)
    import_mb = peak_memory_mb()
    result = {"import_mb": import_mb, **function(**json.loads(arguments))}
    result.setdefault("peak_mb", peak_memory_mb())
    write_text(Path(result_path), json.dumps(result))


if __name__ == "__main__":
    try:
        _run_child(*sys.argv[1:])
    except UserError as user_error:
        print(f"error: {user_error}", file=sys.stderr)
        sys.exit(USER_ERROR_CODE)
