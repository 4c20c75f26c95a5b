"""Find this process's place among the processes of one job.

`torchrun` and `script/launch.py` start a job's processes and tell each its place in the environment.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from util.errors import UserError

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class RankLost(Exception):
    """Another rank of the job failed first, and told why; this one cannot go on.

    Attributes:
        code: the exit code of that rank.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"another rank of this job ended with exit code {code}")
        self.code = code


@dataclass(frozen=True)
class Ranks:
    """This process's place among the ranks, the processes of one job.

    Attributes:
        rank: 0 to `n_ranks - 1`, over all machines.
        n_ranks: processes of the job.
        local_rank: 0 to `n_local_ranks - 1`, on this machine.
        n_local_ranks: processes of the job on this machine.
        n_restarts: how often `torchrun` had to start the job again.
    """

    rank: int = 0
    n_ranks: int = 1
    local_rank: int = 0
    n_local_ranks: int = 1
    n_restarts: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that tells, logs and writes for all."""
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        """Whether this is the rank that prepares files for its machine."""
        return self.local_rank == 0

    @property
    def are_several(self) -> bool:
        """Whether the job has more than this process."""
        return self.n_ranks > 1


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Read this process's place from `torchrun`'s environment variables.

    Without them it is a single rank.

    Raises:
        UserError: only some of the variables are set, or they contradict each other.
    """
    restarts = environment.get("TORCHELASTIC_RESTART_COUNT", "")
    n_restarts = int(restarts) if restarts.isdecimal() else 0
    if not any(environment.get(name) for name in _PLACE) or environment.get("WORLD_SIZE") == "1":
        return Ranks(n_restarts=n_restarts)
    missing = [name for name in (*_PLACE, *_ADDRESS) if not environment.get(name)]
    present = [name for name in _PLACE if environment.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(present)} in the environment but not {', '.join(missing)}: start several processes "
            f"by NPROC=<n> bash script/train.sh or by torchrun; for one, unset {' '.join(present)}"
        )
    try:
        rank, n_ranks, local_rank, n_local_ranks = (int(environment[name]) for name in _PLACE)
    except ValueError:
        rank, n_ranks, local_rank, n_local_ranks = -1, 0, -1, 0
    if not (0 <= rank < n_ranks and 0 <= local_rank < n_local_ranks <= n_ranks and local_rank <= rank):
        told = ", ".join(f"{name}={environment[name]}" for name in _PLACE)
        raise UserError(f"{told}: is no rank of any job; unset them, or start the processes by torchrun")
    return Ranks(rank, n_ranks, local_rank, n_local_ranks, n_restarts)
