"""Transfer batches from worker processes, and report why a worker fails.

PyTorch sends tensors through shared memory, and their handles through a socket in TMPDIR. If /dev/shm is
small (64 MB in a container) or TMPDIR exceeds the length of a socket path, the worker drops the batch and
stays alive, and training hangs. NumPy arrays travel through the pipe and need neither.
"""

import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.process import BaseProcess

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from util.engine.signals import SIGNALS
from util.errors import UserError

MIN_TIMEOUT_S = 60.0
_TIMEOUT_BATCHES = 50  # in batches timed in this process; workers share busy cores


class PackedBatch:
    """A collated batch of arrays that travels between processes.

    Args:
        samples: dictionaries of tensors of the same shapes.
    """

    def __init__(self, samples: Sequence[dict[str, torch.Tensor]]) -> None:
        self._arrays = {name: np.stack([sample[name].numpy() for sample in samples]) for name in samples[0]}

    def unpack(self) -> dict[str, torch.Tensor]:
        """Return the batch's tensors, with a leading batch axis."""
        return {name: torch.from_numpy(array) for name, array in self._arrays.items()}

    def pin_memory(self) -> dict[str, torch.Tensor]:
        """Return the tensors in pinned memory; called by PyTorch's loader."""
        return {name: tensor.pin_memory() for name, tensor in self.unpack().items()}


class BatchLoader:
    """The batches of a loader that collates by `PackedBatch`, as tensors.

    Iterating raises `UserError` if workers cannot start, die, or time out. After an unfinished iteration the
    loader cannot be used again.

    Args:
        loader: made with a timeout if it has workers.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        existing = set(multiprocessing.active_children())
        try:
            if self._loader.num_workers:
                torch.multiprocessing.Queue().close()  # fails before PyTorch half builds an iterator
            batches = iter(self._loader)
        except OSError as error:
            raise _worker_error(f"cannot start ({error.strerror or error})") from error
        workers = set(multiprocessing.active_children()) - existing
        try:
            while (batch := _next_batch(batches)) is not None:
                yield batch.unpack() if isinstance(batch, PackedBatch) else batch
            workers = set()  # they exit by themselves
        finally:
            if workers:
                _stop_workers(batches, workers)


def _next_batch(batches: Iterator) -> PackedBatch | dict[str, torch.Tensor] | None:
    """Return the next batch, or None after the last."""
    try:
        return next(batches, None)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader"):  # a bug in a worker is shown with its traceback
            raise
        raise _worker_error(" ".join(str(error).split())) from error


def _stop_workers(batches: Iterator, workers: Iterable[BaseProcess]) -> None:
    # PyTorch calls this once the iterator is unreferenced, which a traceback would delay. It asks the workers
    # to exit, waits for some seconds, and stops monitoring them.
    batches._shutdown_workers()
    for worker in workers:
        if worker.is_alive():  # stuck, and ignores other signals
            worker.kill()


def measure_timeout_s(dataset: Sequence, batch_size: int) -> float:
    """Return a timeout for one batch, measured on the last sample.

    The first ones may be smaller.
    """
    started = time.perf_counter()
    _ = dataset[len(dataset) - 1]
    return max(MIN_TIMEOUT_S, _TIMEOUT_BATCHES * batch_size * (time.perf_counter() - started))


def init_worker(_worker_id: int) -> None:
    """Limit a worker process to one thread, and leave stopping to the main process.

    Signals to the whole process group would end workers before the main process has written its checkpoint.
    """
    cv2.setNumThreads(0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _worker_error(reason: str) -> UserError:
    return UserError(
        f"num_workers: the worker processes deliver no episodes ({reason}); check the free space of /dev/shm "
        "and TMPDIR and the memory, or set num_workers=0"
    )
