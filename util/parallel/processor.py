"""Look at this machine's processor."""

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bfloat16() -> bool | None:
    """Tell whether this processor multiplies in bfloat16; None if nothing says so."""
    flags = _cpuinfo("flags") or _cpuinfo("Features")  # of x86, of ARM
    return None if flags is None else not _BFLOAT16_FLAGS.isdisjoint(flags.split())


def processor_name() -> str:
    """Name the processor's model, as far as the system tells."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str | None:
    """Read a field of the first core; None where there is none."""
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return line.split(":", 1)[1].strip()
    return None
