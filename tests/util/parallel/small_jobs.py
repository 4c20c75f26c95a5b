"""Small jobs of several ranks: real processes with a rendezvous on a port of this machine."""

import multiprocessing
import os
import socket
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SECONDS = 300.0  # on a busy machine; a quiet one needs seconds


@dataclass(frozen=True)
class Outcome:
    """How one rank ended.

    Attributes:
        result: what its function returned, or the UserError that it raised.
        code: the process's exit code.
        stdout: what it said there.
        stderr: what it said there.
    """

    result: Any
    code: int
    stdout: str
    stderr: str


def torchrun_variables(
    rank: int, n_ranks: int, port: int, *, n_local_ranks: int | None = None
) -> dict[str, str]:
    """Return what torchrun sets for a rank, with ranks filling one machine after the other."""
    n_local_ranks = n_local_ranks or n_ranks
    values = {
        "RANK": rank,
        "WORLD_SIZE": n_ranks,
        "LOCAL_RANK": rank % n_local_ranks,
        "LOCAL_WORLD_SIZE": n_local_ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return {name: str(value) for name, value in values.items()}


def run_job(
    function: Callable[..., Any],
    folder: Path,
    *arguments: Any,
    n_ranks: int = 2,
    n_local_ranks: int | None = None,
) -> list[Outcome]:
    """Call a function of a test module on each rank of a job, and return how the ranks ended."""
    return start_job(function, folder, *arguments, n_ranks=n_ranks, n_local_ranks=n_local_ranks).join()


def start_job(
    function: Callable[..., Any],
    folder: Path,
    *arguments: Any,
    n_ranks: int = 2,
    n_local_ranks: int | None = None,
) -> "Job":
    """Start a job, as `run_job` does, without waiting for its end.

    The processes are forked from one that has imported torch already, because importing takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["util.parallel.joint_runs", "torch.distributed", "training", "validation", "torch._dynamo"]
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    receivers, processes = [], []
    for rank in range(n_ranks):
        variables = torchrun_variables(rank, n_ranks, port, n_local_ranks=n_local_ranks)
        receiver, sender = context.Pipe(duplex=False)
        work = (function, arguments, variables, sender, folder / f"rank_{rank}")
        processes.append(context.Process(target=_run_rank, args=work))
        receivers.append(receiver)
        processes[-1].start()
        sender.close()
    return Job(folder, processes, receivers)


def start_elastic_job(
    function: Callable[..., Any], folder: Path, *arguments: Any, max_restarts: int = 0
) -> "Job":
    """Start what torchrun starts for two ranks: an agent, the only process of the job that is returned.

    The ranks are forks of the agent; their exit codes are the agent's concern.
    """
    return start_job(_run_agent, folder, function, arguments, max_restarts, n_ranks=1)


def _run_agent(function: Callable[..., Any], arguments: tuple, max_restarts: int) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        max_restarts=max_restarts,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        logs_specs=DefaultLogsSpecs(),
    )
    elastic_launch(config, function)(*arguments)
    return 0


@dataclass(frozen=True)
class Job:
    """A job that runs.

    Attributes:
        folder: of what the ranks print.
        processes: the ranks, in their order.
        receivers: of their results.
    """

    folder: Path
    processes: list[Any]
    receivers: list[Any]

    def join(self) -> list[Outcome]:
        """Wait for the ranks and return how they ended."""
        results = [
            _receive(receiver) for receiver in self.receivers
        ]  # first: a rank waits at its end for all
        return [
            _end(process, result, self.folder / f"rank_{rank}")
            for rank, (process, result) in enumerate(zip(self.processes, results, strict=True))
        ]


def stop_ranks() -> None:
    """End the process group, if any, and leave the store, as `run_command_line` does at its end."""
    from util.parallel.collectives import LEAVE_TIMEOUT_S, stop_group
    from util.parallel.rank_store import get_rank_store
    from util.parallel.ranks import find_ranks

    stop_group()
    if find_ranks().is_distributed:
        get_rank_store().close(wait_s=LEAVE_TIMEOUT_S)


def _run_rank(
    function: Callable[..., Any], arguments: tuple, variables: dict[str, str], sender: Any, printed: Path
) -> None:
    from util.errors import UserError

    os.environ.update(variables)
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(f"{printed}_{name}", "w") as file:
            os.dup2(file.fileno(), number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1))
    try:
        result = function(*arguments)
    except UserError as error:
        result = error
    sender.send(result)
    stop_ranks()


def _receive(receiver: Any) -> Any:
    try:
        return receiver.recv() if receiver.poll(MAX_SECONDS) else None
    except EOFError:  # the rank ended without a result
        return None


def _end(process: Any, result: Any, printed: Path) -> Outcome:
    process.join(MAX_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return Outcome(
        result, process.exitcode, *(Path(f"{printed}_{name}").read_text() for name in ("stdout", "stderr"))
    )
