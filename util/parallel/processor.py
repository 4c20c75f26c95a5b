"""Properties of this machine's processor."""

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
