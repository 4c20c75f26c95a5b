"""Process many scans at a time, in worker processes."""

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
from pathlib import Path
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
    description: str,
    n_workers: int | None = None,
    progress: bool = True,
) -> list[Result]:
    """Call a function on each task and return the results in the tasks' order.

    The first failure ends the call: running tasks are finished, queued ones are dropped. Ctrl-C does the
    same; a second one kills the workers. Workers import neither the main module nor torch, and none outlives
    this process, even if that is killed.

    Args:
        function: defined at module level, so that a worker can import it.
        tasks: its arguments; they and the results are pickled.
        description: of the work, for the progress bar and messages: "supervoxels".
        n_workers: processes; by default one per usable core, at most one per task. With 1, all work is done
            in this process.
        progress: show a progress bar.

    Raises:
        UserError: a worker died, probably for lack of memory. What `function` raises is passed on.
    """
    if not tasks:
        return []
    n_workers = min(n_workers or usable_cores(), len(tasks))
    if n_workers > 1:
        results = _run_in_pool(function, tasks, description=description, n_workers=n_workers)
    else:
        results = ((position, function(task)) for position, task in enumerate(tasks))
    result_at = {}
    bar = tqdm(total=len(tasks), desc=description, unit="scan", disable=not progress)
    with bar, closing(results) as completed:
        for position, result in completed:
            result_at[position] = result
            bar.update()
    return [result_at[position] for position in range(len(tasks))]


@contextmanager
def scan_errors(scan_id: int, path: Path, action: str, *folders: Path) -> Iterator[None]:
    """Add a scan and its file to the errors of the block.

    Args:
        scan_id, path: of the scan.
        action: what the block does with it, as an infinitive.
        folders: a `UserError` that mentions one of them names its file already and is passed on.

    Raises:
        UserError: for another `UserError`, or for lack of memory.
        RuntimeError: for any other error.
    """
    try:
        yield
    except UserError as error:
        if any(str(folder) in str(error) for folder in folders):
            raise
        raise UserError(f"{path}: {error}") from error
    except MemoryError as error:
        raise UserError(f"{path}: not enough memory to {action} scan {scan_id}; use fewer workers") from error
    except Exception as error:
        raise RuntimeError(f"cannot {action} scan {scan_id} ({path}): {error}") from error


def _run_in_pool(
    function: Callable, tasks: Sequence, *, description: str, n_workers: int
) -> Generator[tuple[int, object], None, None]:
    # Spawned, not forked: image IO and torch have threads whose locks do not survive a fork.
    context = multiprocessing.get_context("spawn")
    n_threads = max(1, usable_cores() // n_workers)
    existing = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=_init_worker, initargs=(n_threads,)
    )
    positions: dict[Future, int] = {}
    try:
        with _hidden_main_module():
            for position, task in enumerate(tasks):
                positions[executor.submit(with_remarks, function, task)] = position
        for future in as_completed(positions):
            result, remarks = future.result()
            for text in remarks:
                remark(text)
            yield positions[future], result
    except BrokenProcessPool as error:
        raise UserError(
            f"{description}: a worker died, probably for lack of memory; use fewer than {n_workers} workers"
        ) from error
    finally:
        _shut_down(executor, positions, existing)


def _shut_down(executor: ProcessPoolExecutor, futures: Iterable[Future], existing: set) -> None:
    """Cancel queued tasks, wait for running ones, and stop the workers.

    Finished rather than killed, tasks leave no temporary file behind. A second Ctrl-C kills the workers.
    """
    for future in futures:
        future.cancel()
    try:
        # Not left to `shutdown`: interrupted there, Python 3.11 hangs at exit.
        wait_for_futures(futures)
    except BaseException:
        for worker in set(multiprocessing.active_children()) - existing:
            worker.kill()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _init_worker(n_threads: int) -> None:
    """Initialise a worker process, before it imports what its tasks need."""
    # Ctrl-C is left to the parent, which waits for running tasks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # ITK would start one thread per core in every worker; it reads this when it is loaded.
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", str(n_threads))
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit with the parent, rather than write beside workers of a later call."""
    wait_for_any([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextmanager
def _hidden_main_module() -> Iterator[None]:
    """Hide the main module, which starting workers would import."""
    main_module = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main_module
