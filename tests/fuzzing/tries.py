"""Try one damaged input in a separate process, with little memory and time.

The process is a fork of one that has imported everything: importing PyTorch anew would take seconds.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MEMORY_BYTES = 1 << 30  # beyond what the imports take
_POLL_SECONDS = 0.004
_NO_CODE = -1


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        code: its exit code; negative where a signal ended it.
        errors: what it wrote on stderr.
        result: what it found, in words that differ with any difference; empty where it failed.
        timed_out: whether it ran for too long.
    """

    code: int
    errors: str
    result: str
    timed_out: bool = False


def run_apart(consume: Callable[[], tuple[int, str]], folder: Path, *, seconds: float) -> Ending:
    """Call a function in a fork of this process, with a limit of memory and time.

    Args:
        consume: returns an exit code and what it found.
        folder: becomes the working directory; what is written to stdout and stderr goes there.
        seconds: of wall time.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _live(consume, folder, seconds)
    deadline = time.monotonic() + seconds
    timed_out = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            timed_out = True
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(_POLL_SECONDS)
    result = folder / "result.txt"
    return Ending(
        code=os.waitstatus_to_exitcode(status),
        errors=(folder / "stderr.txt").read_text(encoding="utf-8", errors="replace"),
        result=result.read_text(encoding="utf-8") if result.is_file() else "",
        timed_out=timed_out,
    )


def _live(consume: Callable[[], tuple[int, str]], folder: Path, seconds: float) -> None:
    """Be the child; never return."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
        limit = _used_bytes() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code, output = consume()
        Path("result.txt").write_text(output, encoding="utf-8")
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _used_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
