"""Measure time and peak memory, each variant in a separate process.

A benchmark is a module `bench.<name>` whose `main()` measures and passes one `bench.sections.Section` to
`write_section`. 1 MB is 10^6 bytes.
"""

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from util.errors import EXIT_USER_ERROR, UserError
from util.io.files import write_text

ROOT = Path(__file__).resolve().parents[1]
MB = 1e6
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one variant.

    Attributes:
        seconds: time of each run, at least one.
        peak_mb: peak memory: of the process, or on CUDA of PyTorch's allocations on the device.
        extra: further values that the measured function returned, and `import_mb`, the process's peak before
            the call, which is the memory of Python and its imports.
    """

    seconds: tuple[float, ...]
    peak_mb: float
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median time in seconds."""
        return statistics.median(self.seconds)


def measure_in_process(
    target: str, /, *, rounds: int = 1, environment: Mapping[str, str] | None = None, **arguments: Any
) -> Measurement:
    """Call a function in a new Python process, so that its peak memory is its own.

    Args:
        target: `"bench.module:function"`, which includes its set-up and returns a dictionary of JSON values
            with `seconds`, a list, and optionally `peak_mb` in place of the process's peak.
        rounds: number of processes; their results are pooled as in `measure_alternately`.
        environment: additional environment variables.
        arguments: of the function; JSON values.

    Raises:
        subprocess.CalledProcessError: the function failed; its traceback is on stderr.
        SystemExit: it raised a `UserError`, whose message is on stderr.
    """
    return _pool([_run_once(target, arguments, environment) for _ in range(rounds)])


def measure_alternately(
    variants: Mapping[str, tuple[str, dict[str, Any]]],
    *,
    rounds: int,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Measurement]:
    """Measure variants in turn, so that slow phases of the machine affect all.

    `variants` maps names to targets and arguments, see `measure_in_process`. The results have all runs of all
    rounds, the highest peak, and the last round's `extra`.
    """
    measured = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (target, arguments) in variants.items():
            measured[name].append(_run_once(target, arguments, environment))
    return {name: _pool(measurements) for name, measurements in measured.items()}


def time_calls(
    function: Callable[[], object],
    repeats: int,
    *,
    warm_up: int = 1,
    synchronize: Callable[[], object] | None = None,
) -> list[float]:
    """Return the wall time in seconds of each call after `warm_up` calls.

    `synchronize` waits for an asynchronous device: `torch.cuda.synchronize`, for example.
    """
    seconds = []
    for _ in range(warm_up + repeats):
        started = time.perf_counter()
        function()
        if synchronize:
            synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def measure_usage(function: Callable[[], object]) -> dict[str, float]:
    """Return the processor time and page faults of a call.

    They are those of all threads of this process, and depend on other programs less than wall time does:
    `cpu_s`, its share `system_s` in which the kernel worked for the process, and `page_faults`, how often it
    had to supply a page.
    """
    before = resource.getrusage(resource.RUSAGE_SELF)
    function()
    after = resource.getrusage(resource.RUSAGE_SELF)
    system_s = after.ru_stime - before.ru_stime
    return {
        "cpu_s": after.ru_utime - before.ru_utime + system_s,
        "system_s": system_s,
        "page_faults": after.ru_minflt - before.ru_minflt,
    }


def peak_memory_mb() -> float:
    """Return the peak memory of this process so far.

    Linux initialises `ru_maxrss` with the parent's memory, but not VmHWM.
    """
    return status_mb("VmHWM") or max_rss_mb(resource.RUSAGE_SELF)


def max_rss_mb(who: int) -> float:
    """Return the maximum resident set size of `RUSAGE_SELF` or `RUSAGE_CHILDREN`."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB


def status_mb(key: str) -> float | None:
    """Return an entry of /proc/self/status, such as VmRSS; None without it."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024 / MB
    return None


def _run_once(target: str, arguments: dict[str, Any], environment: Mapping[str, str] | None) -> Measurement:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result_path = Path(folder, "result.json")
        command = [sys.executable, "-m", "bench.measuring", target, json.dumps(arguments), str(result_path)]
        process = subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, **(environment or {})})
        if process.returncode == EXIT_USER_ERROR:  # its message is on stderr
            sys.exit(EXIT_USER_ERROR)
        process.check_returncode()
        result = json.loads(result_path.read_text(encoding="utf-8"))
    return Measurement(tuple(result.pop("seconds")), result.pop("peak_mb"), result)


def _pool(measurements: Sequence[Measurement]) -> Measurement:
    seconds = tuple(value for measurement in measurements for value in measurement.seconds)
    return Measurement(seconds, max(m.peak_mb for m in measurements), measurements[-1].extra)


def _worker_main(target: str, arguments: str, result_path: str) -> None:
    """Call the target in the process that `measure_in_process` started."""
    module, function_name = target.split(":")
    function = getattr(importlib.import_module(module), function_name)
    import_mb = peak_memory_mb()
    result = {"import_mb": import_mb, **function(**json.loads(arguments))}
    result.setdefault("peak_mb", peak_memory_mb())
    write_text(Path(result_path), json.dumps(result))


if __name__ == "__main__":
    try:
        _worker_main(*sys.argv[1:])
    except UserError as user_error:
        print(f"error: {user_error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
