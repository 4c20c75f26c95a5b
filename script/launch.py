"""Run a program as one process, or as the several ranks of one job.

Usage: `NPROC=2 python script/launch.py training.py with ...`. folds.py starts every fold this way. The ranks
find what `torchrun` would set. Unlike it, this imports nothing beyond the standard library, passes SIGUSR1
on, ends with the exit code of the rank that failed first, and leaves it to the ranks to say why.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXIT_USER_ERROR = 2
DEFAULT_PORT = 29500  # torchrun's; on one machine a free port is taken instead
LOCAL_ADDRESS = "127.0.0.1"
POLL_S = 0.05
# The ranks end by themselves once one has failed, unless they are stuck in an exchange with it.
PATIENCE_S = 15.0


class RequestError(Exception):
    """The user asks for what cannot be run as meant; told in one line."""


@dataclass(frozen=True)
class Plan:
    """Which processes a job has.

    Attributes:
        n_local: processes on this machine.
        n_machines: machines, with as many processes each.
        machine: this machine's number.
        address: name or address of machine 0.
        port: where its rank 0 listens; None for a free one, where there is one machine.
    """

    n_local: int = 1
    n_machines: int = 1
    machine: int = 0
    address: str = LOCAL_ADDRESS
    port: int | None = None

    def environments(self, job: int = 0) -> list[dict[str, str]]:
        """Return what each process of this machine has to find in its environment.

        A single process finds nothing new. `job` counts jobs that follow each other: on several machines each
        has a port of its own, so that no rank meets those of the job before.
        """
        n_ranks = self.n_machines * self.n_local
        if n_ranks == 1:
            return [{}]
        port = _free_port() if self.port is None else self.port + job
        job_wide = {
            "WORLD_SIZE": n_ranks,
            "LOCAL_WORLD_SIZE": self.n_local,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": port,
        }
        if self.n_local > 1 and "OMP_NUM_THREADS" not in os.environ:
            job_wide["OMP_NUM_THREADS"] = max(1, _n_cores() // self.n_local)
        places = [
            {"RANK": self.machine * self.n_local + local_rank, "LOCAL_RANK": local_rank}
            for local_rank in range(self.n_local)
        ]
        return [{name: str(value) for name, value in {**job_wide, **place}.items()} for place in places]


def read_plan(environment: Mapping[str, str] = os.environ) -> Plan:
    """Read NPROC, NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT.

    Empty ones count as unset.

    Raises:
        RequestError: one is no number or out of range, or several machines lack what they need.
    """
    n_local = _n_gpus() if environment.get("NPROC") == "gpu" else _whole(environment, "NPROC", 1, default=1)
    n_machines = _whole(environment, "NNODES", 1, default=1)
    port = _whole(environment, "MASTER_PORT", 1, default=None)
    if n_machines == 1:
        return Plan(n_local, port=port)
    for name in ("NODE_RANK", "MASTER_ADDR"):
        if not environment.get(name):
            raise RequestError(
                f"NNODES={n_machines} needs {name}: set NODE_RANK to 0, 1, ... on the machines, and "
                "MASTER_ADDR to the name of the first on all"
            )
    machine = _whole(environment, "NODE_RANK", 0, default=0)
    if machine >= n_machines:
        raise RequestError(f"NODE_RANK={machine}: must be 0 to {n_machines - 1} with NNODES={n_machines}")
    return Plan(n_local, n_machines, machine, environment["MASTER_ADDR"], port or DEFAULT_PORT)


class JobRunner:
    """Runs jobs one by one and passes on the signals that reach this process."""

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._children: list[subprocess.Popen] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def run(self, command: Sequence[str], environments: Sequence[Mapping[str, str]] = ({},)) -> int:
        """Run a command, once for each environment at the same time, to its end.

        Returns:
            The exit code of the process that failed first, 128 + n where signal n ended it; 0 if none failed.
        """
        for environment in environments:
            self._children.append(subprocess.Popen(command, env={**os.environ, **environment}))
        for number in self.received:  # those that came while the children were starting
            self._pass_on(number)
        code = self._wait()
        self._children = []
        return code

    def _wait(self) -> int:
        """Wait for all; end those that outlive a failed one for too long."""
        code, means, deadline = 0, [signal.SIGTERM, signal.SIGKILL], float("inf")
        while running := [child for child in self._children if child.poll() is None]:
            failed = next((child for child in self._children if child.returncode), None)
            if failed and not code:
                code, deadline = self._tell(failed), time.monotonic() + PATIENCE_S
            if not code and len(running) == 1:
                running[0].wait()
            elif means and time.monotonic() > deadline:
                signal_now, deadline = means.pop(0), time.monotonic() + PATIENCE_S
                for child in running:
                    child.send_signal(signal_now)
            else:
                time.sleep(POLL_S)
        failed = next((child for child in self._children if child.returncode), None)
        return self._tell(failed) if failed and not code else code

    def _tell(self, failed: subprocess.Popen) -> int:
        """Return a failed process's exit code; tell of a rank that could not tell itself."""
        if failed.returncode > 0:
            return failed.returncode
        ended_by = signal.Signals(-failed.returncode)
        if len(self._children) > 1 and not self.received:
            place = self._children.index(failed)
            print(f"error: local rank {place} was ended by {ended_by.name}", file=sys.stderr)
        return 128 + ended_by

    def _receive(self, number: int, _frame: object) -> None:
        self.received.append(signal.Signals(number))
        self._pass_on(self.received[-1])

    def _pass_on(self, number: int) -> None:
        # Ctrl-C reaches the children by itself; a second SIGINT would cut their clean-up short.
        if number != signal.SIGINT:
            for child in self._children:
                child.send_signal(number)


def _whole(environment: Mapping[str, str], name: str, minimum: int, *, default: int | None) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < minimum:
        or_gpu = ", or gpu for one process on each GPU" if name == "NPROC" else ""
        raise RequestError(f"{name}={text}: must be a whole number of at least {minimum}{or_gpu}")
    return int(text)


def _n_gpus() -> int:
    """Count this machine's CUDA devices, as PyTorch does."""
    count = "import torch; print(torch.cuda.device_count())"
    result = subprocess.run([sys.executable, "-c", count], stdout=subprocess.PIPE, text=True, check=False)
    words = result.stdout.split() or ["0"]
    if words[-1] == "0":
        raise RequestError("NPROC=gpu: this machine offers no CUDA device; give a number of processes")
    return int(words[-1])


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOCAL_ADDRESS, 0))
        return listener.getsockname()[1]


def main() -> None:
    """Run the program named by the command line, and exit with its code."""
    try:
        environments = read_plan().environments()
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    sys.exit(JobRunner().run([sys.executable, *sys.argv[1:]], environments))


if __name__ == "__main__":
    main()
