"""Run a program on all ranks of a job as if it were one process.

Only rank 0 parses the command line and records the run; the other ranks start once it has shared its checked
configuration. A failure of any rank ends all with the same exit code, and is reported by one rank.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from util.errors import EXIT_DEFECT, EXIT_INTERRUPTED, EXIT_USER_ERROR, Stopped, UserError
from util.parallel.collectives import LEAVE_TIMEOUT_S, AllRanksError, stop_group
from util.parallel.rank_store import get_rank_store, wait_until
from util.parallel.ranks import OtherRankFailed

# Ranks often fail with the same error; the others wait this long for rank 0 to report it.
_RANK_0_REPORTS_WITHIN_S = 2.0
# Some ranks may hang in a collective, and are left to the launcher.
_LEAVE_TIMEOUT_AFTER_FAILURE_S = 3.0


class GuardedRunner(Protocol):
    """Calls a function, reports its failure, and returns the exit code."""

    def __call__(self, main: Callable[[], object], /, *, debug: bool) -> int:
        """Call `main`; `debug` requests tracebacks of user errors, too."""


def run_main_rank(run: Callable[[], int]) -> int:
    """Run rank 0's part, and pass its exit code to the other ranks.

    Args:
        run: runs the program and returns its exit code; calls `share_config` to start the other ranks.
    """
    code = EXIT_DEFECT
    try:
        code = run()
    finally:
        get_rank_store().put("end", code)
        _exit_process(code)
    return code


def share_config(values: Mapping[str, Any], run_dir: Path, *, debug: bool) -> None:
    """Send the checked configuration and the run folder to the other ranks.

    `debug` requests tracebacks of user errors from them, too.
    """
    get_rank_store().put("work", (json.dumps(values), str(run_dir.absolute()), debug))


def run_worker_rank(worker_main: Callable[[dict[str, Any], Path], None], *, guard: GuardedRunner) -> int:
    """Run the part of a rank other than 0, and return rank 0's exit code.

    Args:
        worker_main: takes the configuration and the run folder. Its standard output is discarded.
        guard: runs it.
    """
    code = EXIT_DEFECT
    try:
        code = _run_worker_rank(worker_main, guard=guard)
    finally:
        _exit_process(code)
    return code


@contextlib.contextmanager
def report_error_once() -> Iterator[None]:
    """Let an exception of this rank pass only if no other rank failed before.

    A message names the rank unless all ranks failed or it is rank 0.

    Raises:
        OtherRankFailed: in place of any exception after another rank's failure.
    """
    try:
        yield
    except OtherRankFailed:
        raise
    except UserError as error:
        ranks = get_rank_store().ranks
        _fail(EXIT_USER_ERROR)
        if ranks.is_main or isinstance(error, AllRanksError):
            raise
        raise UserError(f"rank {ranks.rank}: {error}") from error
    except BaseException as error:
        _fail(_code_of(error))
        raise


def _code_of(error: BaseException) -> int:
    if isinstance(error, Stopped):
        return error.code
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_DEFECT


def _run_worker_rank(worker_main: Callable[[dict[str, Any], Path], None], *, guard: GuardedRunner) -> int:
    try:
        shared = get_rank_store().get("work", "end")
    except OtherRankFailed as failed:
        return failed.code
    if isinstance(shared, int):  # rank 0 ended without starting a run
        return shared
    values, run_dir, debug = shared

    def work() -> None:
        with report_error_once():
            with open(os.devnull, "w", encoding="utf-8") as devnull, contextlib.redirect_stdout(devnull):
                worker_main(json.loads(values), Path(run_dir))
            if code := get_rank_store().get("end"):  # rank 0 may fail after the others are done
                raise OtherRankFailed(code)

    return guard(work, debug=debug)


def _fail(code: int) -> None:
    store = get_rank_store()
    if code == EXIT_USER_ERROR and not store.ranks.is_main:
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: store.has("failure"), _RANK_0_REPORTS_WITHIN_S)
    store.fail(code)


def _exit_process(code: int) -> None:
    store = get_rank_store()
    stop_group(failed=bool(code))  # frees the ranks that wait for this one in a collective
    if code and not store.ranks.is_main:
        # Rank 0 still has to close its run, and torchrun ends all ranks once the first one exits.
        with contextlib.suppress(TimeoutError, RuntimeError):
            wait_until(lambda: store.has("end"), _LEAVE_TIMEOUT_AFTER_FAILURE_S)
    store.close(wait_s=_LEAVE_TIMEOUT_AFTER_FAILURE_S if code else LEAVE_TIMEOUT_S)
