"""Work together as the ranks of one job.

Gradients and buffers travel by torch's process group: gloo on CPUs, NCCL on GPUs. Small Python values travel
by the ranks' meeting. On a single rank everything here returns at once and exchanges nothing. What exchanges
must be called by all ranks in the same order.
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
from util.parallel.rank_store import meet
from util.parallel.ranks import Ranks, find_ranks

Value = TypeVar("Value")

# Between two exchanges of gradients one rank may read data or write a snapshot, on a slow disk, too.
GROUP_TIMEOUT = timedelta(minutes=30)
PARTING_S = 60.0  # all end at about the same time
# Not NCCL alone: tensors on the CPU can be exchanged, too.
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class AgreedError(UserError):
    """Bad input that every rank knows of, in the same words."""


def start_ranks(device: str) -> Ranks:
    """Find this process's place and, among several ranks, start the process group.

    Args:
        device: the configured one; see `choose_device`.

    Raises:
        UserError: the environment is half-set, or a rank does not have its device; on all ranks alike.
    """
    ranks = find_ranks()
    if not ranks.are_several:
        return ranks
    chosen = agree(lambda: choose_device(device, ranks))
    types = gather_values(chosen.type)
    if len(set(types)) > 1:
        other = next(rank for rank, name in enumerate(types) if name != types[0])
        raise AgreedError(
            f"device={device}: is {types[0]} for rank 0 and {types[other]} for rank {other}; name one of them"
        )
    start_group(chosen, ranks)
    return ranks


def start_group(device: torch.device, ranks: Ranks) -> None:
    """Start the process group for computing on `device`; ends with `stop_group`."""
    options = {}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        options["device_id"] = device
    distributed.init_process_group(
        _BACKENDS[device.type],
        store=distributed.PrefixStore("group", meet().store),
        rank=ranks.rank,
        world_size=ranks.n_ranks,
        timeout=GROUP_TIMEOUT,
        **options,
    )


def stop_ranks() -> None:
    """End the process group if there is one, and take leave of the other ranks.

    `run_command_line` does so itself.
    """
    stop_group()
    if find_ranks().are_several:
        meet().leave(wait_s=PARTING_S)


def stop_group(*, failed: bool = False) -> None:
    """End the process group if there is one.

    After a failure NCCL's is left to the end of the process: it would wait for exchanges that others may
    never take part in.
    """
    if distributed.is_initialized() and not (failed and "nccl" in distributed.get_backend_config()):
        distributed.destroy_process_group()


def gather_values(value: Value) -> list[Value]:
    """Exchange a picklable value with all ranks.

    Returns everyone's in rank order, on every rank.
    """
    return meet().gather(value) if find_ranks().are_several else [value]


def broadcast_value(value: Value) -> Value:
    """Return rank 0's value, which must be picklable, on every rank."""
    ranks = find_ranks()
    return gather_values(value if ranks.is_main else None)[0]


def barrier() -> None:
    """Wait until all ranks are here."""
    gather_values(None)


def largest_of_ranks(numbers: Sequence[int]) -> list[int]:
    """Return the largest of each number over the ranks; cheap enough for every step."""
    if not find_ranks().are_several:
        return list(numbers)
    found = torch.tensor(numbers)  # on the CPU: no GPU is waited for
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.tolist()


def agree(step: Callable[[], Value]) -> Value:
    """Do a step on every rank; where it is a mistake for one, it is one for all.

    So no rank is left waiting for another that gave up.

    Returns:
        What this rank's step returned.

    Raises:
        UserError: the mistake of the first rank that made one; with its number, unless that is 0.
    """
    result, mistake = None, None
    try:
        result = step()
    except UserError as error:
        if not find_ranks().are_several:
            raise
        mistake = str(error)
    mistakes = gather_values(mistake)
    for rank, told in enumerate(mistakes):
        if told is not None:
            raise AgreedError(told if rank == 0 else f"rank {rank}: {told}")
    return result


def local_main_first(step: Callable[[], Value]) -> Value:
    """Do a step on every rank, first on one of each machine.

    For steps that write files where they are missing, and otherwise read them. Raises as `agree` does.
    """
    ranks = find_ranks()
    if ranks.is_local_main:
        result = agree(step)
        if ranks.are_several:
            agree(lambda: None)
        return result
    agree(lambda: None)
    return agree(step)


def average_buffers(module: nn.Module) -> None:
    """Set a module's floating-point buffers to their means over the ranks.

    Those are BatchNorm's running statistics above all, which every rank gathers from episodes of its own.
    Buffers that are equal on all ranks stay as they are, to the bit.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not find_ranks().are_several or not buffers:
        return
    # In double precision, where the sum of equal numbers over their count is that number again.
    total = torch.cat([buffer.detach().flatten().double() for buffer in buffers])
    distributed.all_reduce(total)
    means = (total / distributed.get_world_size()).split([buffer.numel() for buffer in buffers])
    with torch.no_grad():
        for buffer, mean in zip(buffers, means, strict=True):
            buffer.copy_(mean.view_as(buffer))


def average_gradients(module: nn.Module, device: torch.device, *, has_unused_parameters: bool) -> nn.Module:
    """Wrap a module so that backward passes give gradients' means over ranks.

    Buffers stay each rank's own; see `average_buffers`.

    Args:
        module: on its device, and equal on all ranks.
        device: the rank's.
        has_unused_parameters: whether some parameters get no gradient; finding them costs time.
    """
    # PyTorch 2.15 renames the option and warns of the old name.
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=has_unused_parameters,
        **{option: False},
    )
