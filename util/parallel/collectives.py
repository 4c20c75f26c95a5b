"""Collectives for the ranks of one job.

Gradients and buffers are exchanged by torch's process group: gloo on CPUs, NCCL on GPUs. Small Python values
are exchanged by the `RankStore`. On a single rank everything here returns at once. All ranks must call
collectives in the same order.
"""

import inspect
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from util.errors import UserError
from util.parallel.devices import choose_device
from util.parallel.rank_store import get_rank_store
from util.parallel.ranks import Ranks, find_ranks

Value = TypeVar("Value")

# Between two all-reduces of gradients one rank may read data or write a snapshot to a slow disk.
GROUP_TIMEOUT = timedelta(minutes=30)
LEAVE_TIMEOUT_S = 60.0  # all ranks end at about the same time
# Not NCCL alone: tensors on the CPU can be exchanged, too.
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class AllRanksError(UserError):
    """Bad input that all ranks report in the same words."""


def start_ranks(device: str) -> Ranks:
    """Find this process's rank and, if there are several, start the process group.

    Args:
        device: the configured one; see `choose_device`.

    Raises:
        UserError: the environment is incomplete, or a rank lacks its device; raised on all ranks.
    """
    ranks = find_ranks()
    if not ranks.is_distributed:
        return ranks
    rank_device = run_on_all_ranks(lambda: choose_device(device, ranks))
    device_types = gather_values(rank_device.type)
    if len(set(device_types)) > 1:
        rank = next(rank for rank, name in enumerate(device_types) if name != device_types[0])
        raise AllRanksError(
            f"device={device}: is {device_types[0]} for rank 0 and {device_types[rank]} for rank {rank}; "
            "name one of them"
        )
    start_group(rank_device, ranks)
    return ranks


def start_group(device: torch.device, ranks: Ranks) -> None:
    """Start the process group for computing on `device`; end it with `stop_group`."""
    options = {}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        options["device_id"] = device
    distributed.init_process_group(
        _BACKENDS[device.type],
        store=distributed.PrefixStore("group", get_rank_store().store),
        rank=ranks.rank,
        world_size=ranks.n_ranks,
        timeout=GROUP_TIMEOUT,
        **options,
    )


def stop_group(*, failed: bool = False) -> None:
    """End the process group, if any.

    After a failure NCCL's is left to the end of the process: it would wait for collectives that other ranks
    may never join.
    """
    if distributed.is_initialized() and not (failed and "nccl" in distributed.get_backend_config()):
        distributed.destroy_process_group()


def gather_values(value: Value) -> list[Value]:
    """All-gather a picklable value; returns the values of all ranks, in rank order."""
    return get_rank_store().gather(value) if find_ranks().is_distributed else [value]


def broadcast_value(value: Value) -> Value:
    """Return rank 0's value, which must be picklable, on every rank."""
    ranks = find_ranks()
    return gather_values(value if ranks.is_main else None)[0]


def max_over_ranks(numbers: Sequence[int]) -> list[int]:
    """Return the elementwise maximum over the ranks; cheap enough for every step."""
    if not find_ranks().is_distributed:
        return list(numbers)
    maxima = torch.tensor(numbers)  # on the CPU: no synchronisation with a GPU
    distributed.all_reduce(maxima, distributed.ReduceOp.MAX)
    return maxima.tolist()


def run_on_all_ranks(step: Callable[[], Value]) -> Value:
    """Run a step on every rank; if it fails on one, raise on all.

    Otherwise ranks would wait forever for one that gave up.

    Returns:
        The result of this rank's step.

    Raises:
        UserError: of the first rank whose step failed; names the rank unless that is rank 0.
    """
    result, message = None, None
    try:
        result = step()
    except UserError as error:
        if not find_ranks().is_distributed:
            raise
        message = str(error)
    for rank, failure in enumerate(gather_values(message)):
        if failure is not None:
            raise AllRanksError(failure if rank == 0 else f"rank {rank}: {failure}")
    return result


def local_main_first(step: Callable[[], Value]) -> Value:
    """Run a step on every rank, first on local rank 0 of each machine.

    For steps that write files if they are missing, and read them otherwise. Raises as `run_on_all_ranks`.
    """
    ranks = find_ranks()
    if ranks.is_local_main:
        result = run_on_all_ranks(step)
        if ranks.is_distributed:
            run_on_all_ranks(lambda: None)
        return result
    run_on_all_ranks(lambda: None)
    return run_on_all_ranks(step)


def average_buffers(module: nn.Module) -> None:
    """Average a module's floating-point buffers over the ranks.

    These are mainly BatchNorm's running statistics, which every rank collects from its own episodes. Buffers
    that are equal on all ranks stay the same bit for bit.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not find_ranks().is_distributed or not buffers:
        return
    # In float64, where the sum of n equal float32 numbers divided by n is exact.
    total = torch.cat([buffer.detach().flatten().double() for buffer in buffers])
    distributed.all_reduce(total)
    means = (total / distributed.get_world_size()).split([buffer.numel() for buffer in buffers])
    with torch.no_grad():
        for buffer, mean in zip(buffers, means, strict=True):
            buffer.copy_(mean.view_as(buffer))


def wrap_ddp(module: nn.Module, device: torch.device, *, find_unused_parameters: bool) -> nn.Module:
    """Wrap a module in DistributedDataParallel, which averages gradients.

    Buffers are not synchronised; see `average_buffers`.

    Args:
        module: on its device, and equal on all ranks.
        device: the rank's.
        find_unused_parameters: whether some parameters get no gradient; finding them takes time.
    """
    # PyTorch 2.15 renames the option and warns about the old name.
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused_parameters,
        **{option: False},
    )
