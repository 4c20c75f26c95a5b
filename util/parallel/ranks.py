"""Read this process's rank from the environment variables of `torchrun`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from util.errors import UserError

_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")


class OtherRankFailed(Exception):
    """Another rank failed and reported why; this one must end.

    Attributes:
        code: exit code of that rank.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"another rank of this job ended with exit code {code}")
        self.code = code


@dataclass(frozen=True)
class Ranks:
    """Identify this process among the processes of a job.

    Attributes:
        rank: 0 to `n_ranks - 1`, over all machines.
        n_ranks: number of processes of the job.
        local_rank: 0 to `n_local_ranks - 1`, on this machine.
        n_local_ranks: number of its processes on this machine.
        n_restarts: how often `torchrun` restarted the job.
    """

    rank: int = 0
    n_ranks: int = 1
    local_rank: int = 0
    n_local_ranks: int = 1
    n_restarts: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints, logs and writes."""
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        """Whether this is local rank 0, which prepares files on its machine."""
        return self.local_rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether the job has several processes."""
        return self.n_ranks > 1


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Read this process's rank from `torchrun`'s environment variables.

    Without them it is a single rank.

    Raises:
        UserError: some of the variables are missing, or they contradict each other.
    """
    restarts = environment.get("TORCHELASTIC_RESTART_COUNT", "")
    n_restarts = int(restarts) if restarts.isdecimal() else 0
    if not any(environment.get(name) for name in _RANK_VARIABLES) or environment.get("WORLD_SIZE") == "1":
        return Ranks(n_restarts=n_restarts)
    missing = [name for name in (*_RANK_VARIABLES, *_ADDRESS_VARIABLES) if not environment.get(name)]
    present = [name for name in _RANK_VARIABLES if environment.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(present)} in the environment but not {', '.join(missing)}: start several processes "
            f"with NPROC=<n> bash script/train.sh or torchrun; for one, unset {' '.join(present)}"
        )
    try:
        rank, n_ranks, local_rank, n_local_ranks = (int(environment[name]) for name in _RANK_VARIABLES)
    except ValueError:
        rank, n_ranks, local_rank, n_local_ranks = -1, 0, -1, 0
    if not (0 <= rank < n_ranks and 0 <= local_rank < n_local_ranks <= n_ranks and local_rank <= rank):
        values = ", ".join(f"{name}={environment[name]}" for name in _RANK_VARIABLES)
        raise UserError(f"{values}: contradictory ranks; unset them, or start the processes with torchrun")
    return Ranks(rank, n_ranks, local_rank, n_local_ranks, n_restarts)
