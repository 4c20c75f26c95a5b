"""Run a program on all ranks of a job as if it were one process.

Rank 0 alone reads the command line and has the run; the others follow once it has handed over its checked
configuration. Whatever ends a rank ends all, with one exit code and told by one rank.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from util.errors import EXIT_DEFECT, EXIT_INTERRUPTED, EXIT_USER_ERROR, Stopped, UserError
from util.parallel.collectives import PARTING_S, AgreedError, stop_group
from util.parallel.rank_store import meet, wait_until
from util.parallel.ranks import RankLost

# All ranks often find the same mistake; rank 0 is given this long to be the one that tells it.
_COURTESY_S = 2.0
# Some may be stuck in an exchange, and are left to whoever started them.
_PARTING_AFTER_FAILURE_S = 3.0


class Guard(Protocol):
    """Calls a function, tells what ended it, and returns the exit code."""

    def __call__(self, main: Callable[[], object], /, *, debug: bool) -> int:
        """Call `main`; `debug` asks for tracebacks of mistakes, too."""


def lead(run: Callable[[], int]) -> int:
    """Run rank 0's part, and let the others end with its exit code.

    Args:
        run: runs the program and returns its exit code; calls `share` when the others shall follow.
    """
    code = EXIT_DEFECT
    try:
        code = run()
    finally:
        meet().put("end", code)
        _part(code)
    return code


def share(values: Mapping[str, Any], run_dir: Path, *, debug: bool) -> None:
    """Hand over the checked configuration and the run's folder to the other ranks.

    `debug` asks them for tracebacks of mistakes, too.
    """
    meet().put("work", (json.dumps(values), str(run_dir.absolute()), debug))


def follow_lead(follow: Callable[[dict[str, Any], Path], None], *, guard: Guard) -> int:
    """Run the part of a rank other than 0, and return rank 0's exit code.

    Args:
        follow: takes the configuration and the run's folder. What it prints goes nowhere.
        guard: stands around the work.
    """
    code = EXIT_DEFECT
    try:
        code = _follow_lead(follow, guard=guard)
    finally:
        _part(code)
    return code


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Let an exception of this rank through only if no other rank failed before.

    Only a rank's own mistake, not one of all, names the rank; rank 0's never does.

    Raises:
        RankLost: in place of any exception that follows another rank's failure.
    """
    try:
        yield
    except RankLost:
        raise
    except UserError as error:
        ranks = meet().ranks
        _fail(EXIT_USER_ERROR)
        if ranks.is_main or isinstance(error, AgreedError):
            raise
        raise UserError(f"rank {ranks.rank}: {error}") from error
    except BaseException as error:
        _fail(_code_of(error))
        raise


def _code_of(error: BaseException) -> int:
    if isinstance(error, Stopped):
        return error.code
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_DEFECT


def _follow_lead(follow: Callable[[dict[str, Any], Path], None], *, guard: Guard) -> int:
    try:
        given = meet().take("work", "end")
    except RankLost as lost:
        return lost.code
    if isinstance(given, int):  # rank 0 ended without starting a run
        return given
    values, run_dir, debug = given

    def work() -> None:
        with told_once():
            with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
                follow(json.loads(values), Path(run_dir))
            if code := meet().take("end"):  # rank 0 may fail after the others are done
                raise RankLost(code)

    return guard(work, debug=debug)


def _fail(code: int) -> None:
    meeting = meet()
    if code == EXIT_USER_ERROR and not meeting.ranks.is_main:
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: meeting.has("failure"), _COURTESY_S)
    meeting.fail(code)


def _part(code: int) -> None:
    meeting = meet()
    stop_group(failed=bool(code))  # frees the ranks that wait for this one in an exchange
    if code and not meeting.ranks.is_main:
        # Rank 0 still has its run to close, and the first exit makes torchrun end all the others.
        with contextlib.suppress(TimeoutError, RuntimeError):
            wait_until(lambda: meeting.has("end"), _PARTING_AFTER_FAILURE_S)
    meeting.leave(wait_s=_PARTING_AFTER_FAILURE_S if code else PARTING_S)
