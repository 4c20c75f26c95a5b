"""The processor of this machine, and the cores that this process may use."""

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

_CPUINFO = Path("/proc/cpuinfo")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # products, not just conversions


def usable_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of cores that this process may use.

    The minimum of its CPU affinity, the cgroups' quotas (rounded down) and Slurm's allocation; at least 1.
    """
    return min(limit for limit, _ in core_limits(environment))


def core_limits(environment: Mapping[str, str] = os.environ) -> list[tuple[int, str]]:
    """Return each limit on the cores of this process, and what sets it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [(cores, "cores")]
    quotas = list(_cgroup_quotas())
    if quotas:
        limits.append((max(1, int(min(quotas))), "the cgroup's quota"))
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        value = environment.get(name, "")
        if value.isdecimal() and int(value) > 0:
            limits.append((int(value), name))
            break
    return limits


def has_bfloat16() -> bool | None:
    """Return whether the CPU has bfloat16 instructions; None if unknown."""
    flags = _cpuinfo("flags") or _cpuinfo("Features")  # x86, ARM
    return None if flags is None else not _BFLOAT16_FLAGS.isdisjoint(flags.split())


def processor_name() -> str:
    """Return the CPU's model name, or its architecture if unknown."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str | None:
    """Read a field of the first core; None if missing."""
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return line.split(":", 1)[1].strip()
    return None


def _cgroup_quotas() -> Iterator[float]:
    """Yield the CPU quotas, in cores, of this process's cgroups (v1 and v2) and their parents."""
    try:
        entries = [line.split(":", 2) for line in _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUP_ROOT / "cpu" if controllers else _CGROUP_ROOT
        # In a container the path may be the host's and missing here; the root is the container's own cgroup.
        inner = PurePosixPath(path.lstrip("/"))
        for folder in (root / parent for parent in (inner, *inner.parents)):
            quota, period = _read_quota(folder, is_v1=bool(controllers))
            if quota > 0 and period > 0:
                yield quota / period


def _read_quota(folder: Path, *, is_v1: bool) -> tuple[int, int]:
    """Read a cgroup's quota and its period in microseconds; zeros or less if it has none."""
    try:
        if is_v1:
            values = [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        else:
            values = (folder / "cpu.max").read_text().split()
        quota, period = map(int, values)  # "max" and -1: no quota
    except (OSError, ValueError):
        return 0, 0
    return quota, period
