"""Work on many scans at a time, in processes of their own."""

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures import wait as wait_for_futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing.connection import wait as wait_for_any
from typing import TypeVar

from tqdm import tqdm

from util.errors import UserError
from util.parallel.processor import usable_cores
from util.remarks import remark, with_remarks

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_in_processes(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    doing: str,
    n_workers: int | None = None,
    progress: bool = True,
) -> list[Result]:
    """Call a function on each task and return the results in the tasks' order.

    The first failure ends the call: tasks in work are finished, those that wait are dropped. Ctrl-C does the
    same, and pressed again it kills the workers. They import neither the main module nor torch, and none
    outlives this process, even if that is killed.

    Args:
        function: of a module, so that another process can find it.
        tasks: what it is called on; they and the results travel between processes.
        doing: what is done, for the progress bar and messages: "supervoxels".
        n_workers: processes; by default one for each usable core, at most one for each task. With 1 all is
            done in this process.
        progress: show a progress bar.

    Raises:
        UserError: a worker died, probably for lack of memory; and what `function` raises.
    """
    if not tasks:
        return []
    n_workers = min(n_workers or usable_cores(), len(tasks))
    if n_workers > 1:
        results = _call_in_pool(function, tasks, doing=doing, n_workers=n_workers)
    else:
        results = ((position, function(task)) for position, task in enumerate(tasks))
    found = {}
    bar = tqdm(total=len(tasks), desc=doing, unit="scan", disable=not progress)
    with bar, closing(results) as arriving:
        for position, result in arriving:
            found[position] = result
            bar.update()
    return [found[position] for position in range(len(tasks))]


def _call_in_pool(
    function: Callable, tasks: Sequence, *, doing: str, n_workers: int
) -> Generator[tuple[int, object], None, None]:
    # Spawned, not forked: image IO and torch hold threads whose locks do not survive a fork.
    context = multiprocessing.get_context("spawn")
    share = max(1, usable_cores() // n_workers)
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=_start_worker, initargs=(share,)
    )
    positions: dict[Future, int] = {}
    try:
        with _bare_main_module():
            for position, task in enumerate(tasks):
                positions[executor.submit(with_remarks, function, task)] = position
        for future in as_completed(positions):
            result, remarks = future.result()
            for text in remarks:
                remark(text)
            yield positions[future], result
    except BrokenProcessPool as error:
        raise UserError(
            f"{doing}: a worker died, probably for lack of memory; use fewer than {n_workers} workers"
        ) from error
    finally:
        _end(executor, positions, others)


def _end(executor: ProcessPoolExecutor, futures: Iterable[Future], others: set) -> None:
    """Drop tasks that wait, let those in work finish, and end the workers.

    Finished rather than killed they leave no temporary file behind. A second Ctrl-C kills them.
    """
    for future in futures:
        future.cancel()
    try:
        # Not left to `shutdown`: interrupted there, Python 3.11 forgets a thread and hangs at its end.
        wait_for_futures(futures)
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker(n_threads: int) -> None:
    """Prepare a worker process, before it imports what its tasks need."""
    # Ctrl-C is left to the parent, which lets tasks in work finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # ITK would start a thread for each core in every worker; it reads this when it is loaded.
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", str(n_threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone.

    A killed parent says nothing to its workers, which would go on writing beside the next call's.
    """
    wait_for_any([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextmanager
def _bare_main_module() -> Iterator[None]:
    """Hide the main module while workers start.

    They would import it again: with torch, and wrongly where it is a script without a guard. They need
    nothing of it.
    """
    main_module = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main_module
