"""Measure times and memory, each variant in a process of its own.

A benchmark is a module `bench.<name>` with a `main()` that measures, makes one `bench.sections.Section` and
writes it as JSON with `write_section`. MB are 10^6 bytes.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from util.errors import UserError
from util.io.files import write_text

ROOT = Path(__file__).resolve().parents[1]
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
