"""Adapt OpenMP's wait policy to the load: spin on free cores, sleep on busy ones.

Threads that wait for each other at the end of a parallel region spin for some milliseconds. On cores of their
own that is fastest. Once another program takes a core, each region ends only when the kernel runs the thread
that it displaced, and the others spin meanwhile: training slows down up to 20-fold.

GNU OpenMP, which PyTorch's Linux builds use, hardly spins while a process has more OpenMP threads than cores
(see `GOMP_SPINCOUNT` in its manual). `AdaptiveWaitPolicy` switches this on and off at run time with a team of
idle threads. Unlike another number of threads this changes no result.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ContextDecorator
from pathlib import Path

_SAMPLE_S = 0.5
# Share of the time in which one thread waits for a core: above, threads sleep; below, for a while, they spin.
_BUSY_ABOVE, _QUIET_BELOW = 0.10, 0.03
_QUIET_SAMPLES = 10
_USER_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


class AdaptiveWaitPolicy(ContextDecorator):
    """Let OpenMP threads spin on free cores and sleep on busy ones.

    A context or a decorator. It holds for the whole process: contexts inside others, or in several threads at
    a time, share one watcher, which ends with the last of them. Does nothing with other OpenMP libraries,
    outside Linux, or if the environment sets the waiting policy.

    Attributes:
        sleeps: whether threads sleep at the moment.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment

    @property
    def sleeps(self) -> bool:  # noqa: D102 - documented by the class
        return _SHARED.watcher is not None and _SHARED.watcher.sleeps

    def __enter__(self) -> "AdaptiveWaitPolicy":
        is_set_by_user = any(self._environment.get(name) for name in _USER_SETTINGS)
        _SHARED.join(may_start=not is_set_by_user)
        return self

    def __exit__(self, *_error: object) -> None:
        _SHARED.leave()


class _SharedWatcher:
    """The watcher of all contexts of the process: the first starts it, the last ends it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_contexts = 0
        self.watcher: _Watcher | None = None

    def join(self, *, may_start: bool) -> None:
        with self._lock:
            if self.watcher is None and may_start:
                self.watcher = _start_watcher()
            self._n_contexts += 1

    def leave(self) -> None:
        with self._lock:
            self._n_contexts -= 1
            if self._n_contexts == 0 and self.watcher is not None:
                watcher, self.watcher = self.watcher, None
                watcher.end()


_SHARED = _SharedWatcher()


def _start_watcher() -> "_Watcher | None":
    run_region = None if _seconds_without_core() is None else _find_empty_region()
    return None if run_region is None else _Watcher(run_region)


class _Watcher:
    """A thread that lets OpenMP threads spin or sleep, by the load of the cores, until `end`."""

    def __init__(self, run_region: Callable[[int], None]) -> None:
        self._run_region = run_region
        self._stop = threading.Event()
        self._idle_team: _IdleTeam | None = None
        self._thread = threading.Thread(target=self._watch, name="OpenMP wait policy", daemon=True)
        self._thread.start()

    @property
    def sleeps(self) -> bool:
        return self._idle_team is not None

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._spin()

    def _watch(self) -> None:
        n_quiet = 0
        before, waited_before = time.monotonic(), _seconds_without_core()
        while not self._stop.wait(_SAMPLE_S):
            now, waited = time.monotonic(), _seconds_without_core()
            share = (waited - waited_before) / (now - before)
            before, waited_before = now, waited
            n_quiet = n_quiet + 1 if share < _QUIET_BELOW else 0
            if share > _BUSY_ABOVE and not self.sleeps:
                self._idle_team = _IdleTeam(self._run_region)
            elif n_quiet >= _QUIET_SAMPLES:
                self._spin()

    def _spin(self) -> None:
        if self._idle_team is not None:
            self._idle_team.end()
            self._idle_team = None


class _IdleTeam:
    """More OpenMP threads than there are cores, which sleep until `end`."""

    def __init__(self, run_region: Callable[[int], None]) -> None:
        self._run_region = run_region
        self._end, self._started = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run_team, name="idle OpenMP team", daemon=True)
        self._thread.start()
        self._started.wait()

    def end(self) -> None:
        self._end.set()
        self._thread.join()  # its OpenMP threads end with it

    def _run_team(self) -> None:
        self._run_region(len(os.sched_getaffinity(0)) + 1)
        self._started.set()
        self._end.wait()


def _seconds_without_core() -> float | None:
    """Return the seconds in which threads of this process were ready but had no core; None if unknown."""
    total_ns = 0
    try:
        for task in os.listdir("/proc/self/task"):
            try:
                total_ns += int(Path("/proc/self/task", task, "schedstat").read_bytes().split()[1])
            except (FileNotFoundError, ProcessLookupError):  # the thread has just ended
                continue
    except (OSError, ValueError, IndexError):
        return None
    return total_ns / 1e9


def _find_empty_region() -> Callable[[int], None] | None:
    """Return a function that runs an empty parallel region of GNU OpenMP; None if torch uses another library.

    The function takes the number of threads, which sleep afterwards as long as the calling thread lives.
    """
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        paths = [line.split(maxsplit=5)[5] for line in lines if "libgomp" in line]
        path = sorted(paths, key=lambda path: "torch" not in path)[0]
        parallel = ctypes.CDLL(path).GOMP_parallel
        free = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # does nothing with a null pointer
    except (OSError, IndexError, TypeError, AttributeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return lambda n_threads: parallel(free, None, n_threads, 0)
