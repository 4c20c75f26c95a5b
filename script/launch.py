"""Launch a program as one process or as several ranks.

Usage: `NPROC=2 python script/launch.py training.py with ...`; folds.py launches every fold in this way. Sets
the environment variables of `torchrun`, but needs only the standard library, forwards SIGUSR1, exits with the
code of the rank that failed first, and leaves error messages to the ranks.
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
DEFAULT_PORT = 29500  # as for torchrun; on one machine a free port is used instead
LOCAL_ADDRESS = "127.0.0.1"
POLL_INTERVAL_S = 0.05
# After a failure the other ranks exit by themselves, unless they hang in a collective with the failed one.
GRACE_PERIOD_S = 15.0


class UsageError(Exception):
    """Request that cannot be run; reported in one line."""


@dataclass(frozen=True)
class LaunchConfig:
    """Processes of a job.

    Attributes:
        n_local_ranks: processes per machine.
        n_nodes: number of machines.
        node_rank: number of this machine.
        master_addr: host name or address of machine 0.
        master_port: port of rank 0 on machine 0; None: a free one (single machine only).
    """

    n_local_ranks: int = 1
    n_nodes: int = 1
    node_rank: int = 0
    master_addr: str = LOCAL_ADDRESS
    master_port: int | None = None

    def environments(self, job: int = 0) -> list[dict[str, str]]:
        """Return the environment variables to set for each process on this machine.

        Empty for a single process. `job` numbers consecutive jobs and is added to the port, so that no rank
        connects to ranks of the previous job.
        """
        n_ranks = self.n_nodes * self.n_local_ranks
        if n_ranks == 1:
            return [{}]
        port = _free_port() if self.master_port is None else self.master_port + job
        shared = {
            "WORLD_SIZE": n_ranks,
            "LOCAL_WORLD_SIZE": self.n_local_ranks,
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": port,
        }
        ranks = [
            {"RANK": self.node_rank * self.n_local_ranks + local_rank, "LOCAL_RANK": local_rank}
            for local_rank in range(self.n_local_ranks)
        ]
        return [{name: str(value) for name, value in {**shared, **rank}.items()} for rank in ranks]


def read_launch_config(environment: Mapping[str, str] = os.environ) -> LaunchConfig:
    """Read NPROC, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT; empty means unset.

    Raises:
        UsageError: a value is not a number or out of range, or a variable for several machines is missing.
    """
    is_per_gpu = environment.get("NPROC") == "gpu"
    n_local_ranks = _n_gpus() if is_per_gpu else _read_int(environment, "NPROC", 1, default=1)
    n_nodes = _read_int(environment, "NNODES", 1, default=1)
    port = _read_int(environment, "MASTER_PORT", 1, default=None)
    if n_nodes == 1:
        return LaunchConfig(n_local_ranks, master_port=port)
    for name in ("NODE_RANK", "MASTER_ADDR"):
        if not environment.get(name):
            raise UsageError(
                f"NNODES={n_nodes} requires {name}: set NODE_RANK to 0, 1, ... on the machines, and "
                "MASTER_ADDR to the address of machine 0 on all of them"
            )
    node_rank = _read_int(environment, "NODE_RANK", 0, default=0)
    if node_rank >= n_nodes:
        raise UsageError(f"NODE_RANK={node_rank}: must be 0 to {n_nodes - 1} with NNODES={n_nodes}")
    return LaunchConfig(n_local_ranks, n_nodes, node_rank, environment["MASTER_ADDR"], port or DEFAULT_PORT)


class JobRunner:
    """Run jobs one after the other and forward signals to their processes."""

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._processes: list[subprocess.Popen] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._handle)

    def run(self, command: Sequence[str], environments: Sequence[Mapping[str, str]] = ({},)) -> int:
        """Run a command as one process per environment, and wait for all of them.

        Returns:
            Exit code of the process that failed first, 128 + n if killed by signal n; 0 if none failed.
        """
        for environment in environments:
            self._processes.append(subprocess.Popen(command, env={**os.environ, **environment}))
        for number in self.received:  # received while the processes were starting
            self._forward(number)
        code = self._wait()
        self._processes = []
        return code

    def _wait(self) -> int:
        """Wait for all processes; after a failure, terminate the others when the grace period ends."""
        code, remaining_signals, deadline = 0, [signal.SIGTERM, signal.SIGKILL], float("inf")
        while running := [process for process in self._processes if process.poll() is None]:
            failed = next((process for process in self._processes if process.returncode), None)
            if failed and not code:
                code, deadline = self._exit_code(failed), time.monotonic() + GRACE_PERIOD_S
            if not code and len(running) == 1:
                running[0].wait()
            elif remaining_signals and time.monotonic() > deadline:
                number, deadline = remaining_signals.pop(0), time.monotonic() + GRACE_PERIOD_S
                for process in running:
                    process.send_signal(number)
            else:
                time.sleep(POLL_INTERVAL_S)
        failed = next((process for process in self._processes if process.returncode), None)
        return self._exit_code(failed) if failed and not code else code

    def _exit_code(self, failed: subprocess.Popen) -> int:
        """Return a failed process's exit code; report a killed rank, which cannot report itself."""
        if failed.returncode > 0:
            return failed.returncode
        number = signal.Signals(-failed.returncode)
        if len(self._processes) > 1 and not self.received:
            local_rank = self._processes.index(failed)
            print(f"error: local rank {local_rank} was killed by {number.name}", file=sys.stderr)
        return 128 + number

    def _handle(self, number: int, _frame: object) -> None:
        self.received.append(signal.Signals(number))
        self._forward(self.received[-1])

    def _forward(self, number: int) -> None:
        # The terminal sends Ctrl-C to the processes, too; a second SIGINT would interrupt their clean-up.
        if number != signal.SIGINT:
            for process in self._processes:
                process.send_signal(number)


def _read_int(environment: Mapping[str, str], name: str, minimum: int, *, default: int | None) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < minimum:
        or_gpu = ", or gpu for one process per GPU" if name == "NPROC" else ""
        raise UsageError(f"{name}={text}: must be a whole number of at least {minimum}{or_gpu}")
    return int(text)


def _n_gpus() -> int:
    """Count this machine's CUDA devices, with PyTorch in a separate process."""
    command = "import torch; print(torch.cuda.device_count())"
    result = subprocess.run([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True, check=False)
    words = result.stdout.split() or ["0"]
    if words[-1] == "0":
        raise UsageError("NPROC=gpu: this machine has no CUDA device; set NPROC to a number of processes")
    return int(words[-1])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOCAL_ADDRESS, 0))
        return listener.getsockname()[1]


def main() -> None:
    """Launch the program on the command line and exit with its code."""
    try:
        environments = read_launch_config().environments()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    sys.exit(JobRunner().run([sys.executable, *sys.argv[1:]], environments))


if __name__ == "__main__":
    main()
