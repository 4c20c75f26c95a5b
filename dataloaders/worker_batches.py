"""Bring batches from worker processes to the training, or say why that fails.

PyTorch sends tensors by shared memory, and the handles by a socket in TMPDIR. Where /dev/shm is small (64 MB
in a container) or TMPDIR is longer than a socket's path may be, the worker drops the batch and lives on, and
the training waits for ever. NumPy arrays go through the pipe as they are, and need neither.
"""

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from util.engine.signals import SIGNALS
from util.errors import UserError

MIN_PATIENCE_S = 60.0
_PATIENCE = 50  # batches' time in this process; workers share busy cores


class PackedBatch:
    """A batch of arrays on its way between processes.

    Args:
        samples: what a data set returns, dictionaries of tensors of the same shapes.
    """

    def __init__(self, samples: Sequence[dict[str, torch.Tensor]]) -> None:
        self._arrays = {name: np.stack([sample[name].numpy() for sample in samples]) for name in samples[0]}

    def unpack(self) -> dict[str, torch.Tensor]:
        """Return the batch's tensors, with a leading batch axis."""
        return {name: torch.from_numpy(array) for name, array in self._arrays.items()}

    def pin_memory(self) -> dict[str, torch.Tensor]:
        """Return the tensors where a GPU can fetch them; PyTorch's loader calls it."""
        return {name: tensor.pin_memory() for name, tensor in self.unpack().items()}


class BatchLoader:
    """The batches of a loader that collates by `PackedBatch`, as tensors.

    Iterating raises `UserError` if workers cannot start, die, or give nothing for long. An iteration that is
    not brought to its end is the last one.

    Args:
        loader: made with a timeout if it has workers.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        others = set(multiprocessing.active_children())
        try:
            if self._loader.num_workers:
                torch.multiprocessing.Queue().close()  # first: PyTorch leaves a half-made iterator behind
            batches = iter(self._loader)
        except OSError as error:
            raise _no_delivery(f"cannot start ({error.strerror or error})") from error
        workers = set(multiprocessing.active_children()) - others
        try:
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    workers = set()  # they end by themselves
                    return
                except RuntimeError as error:
                    if not str(error).startswith("DataLoader"):  # a defect in a worker keeps its traceback
                        raise
                    raise _no_delivery(" ".join(str(error).split())) from error
                yield batch.unpack() if isinstance(batch, PackedBatch) else batch
        finally:
            if workers:
                # What PyTorch does when nobody holds the iterator any more, as the traceback of an error
                # would. It asks the workers to end, waits for some seconds, and stops watching them.
                batches._shutdown_workers()
                for worker in workers:
                    if worker.is_alive():  # stuck, and deaf to other signals
                        worker.kill()


def measure_patience_s(dataset: Sequence, batch_size: int) -> float:
    """Return for how many seconds to wait for a batch before it counts as lost."""
    started = time.perf_counter()
    _ = dataset[0]
    return max(MIN_PATIENCE_S, _PATIENCE * batch_size * (time.perf_counter() - started))


def start_worker(_worker_id: int) -> None:
    """Keep a worker process to one thread, and let the main process say when to stop.

    Workers are many already, and slices small. Signals that reach the whole process group would end workers
    before the main process has kept what there is.
    """
    cv2.setNumThreads(0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _no_delivery(reason: str) -> UserError:
    return UserError(
        f"num_workers: the processes that make episodes deliver nothing ({reason}); look at the space in "
        "/dev/shm and TMPDIR and at the memory, or set num_workers=0"
    )
