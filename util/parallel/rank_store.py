"""Where the ranks of a job meet: a key-value store on the network.

Small Python values travel here instead of through the process group, so that they can before there is a
group, wait for as long as a rank prepares data, and tell of a rank that failed while the others wait for it.
"""

import os
import pickle
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from typing import Any

from torch.distributed import PrefixStore, Store, rendezvous

from util.errors import EXIT_DEFECT, UserError
from util.parallel.ranks import RankLost, Ranks, find_ranks

MEETING_TIMEOUT = timedelta(minutes=10)  # starting processes, importing, on a busy file system
WAITING_TIMEOUT_S = 12 * 3600.0  # one rank prepares data or tells its part of an evaluation
_CHUNK_BYTES = 4 * 2**20  # the store takes 8 MiB at once
_SHORTEST_SLEEP_S, _LONGEST_SLEEP_S = 0.001, 0.1


class Meeting:
    """The ranks' meeting at a store.

    All ranks must call `gather` equally often and in the same order.

    Args:
        store: shared by the ranks of this job alone.
        ranks: this process's place among them.

    Attributes:
        store: as given.
        ranks: as given.
    """

    def __init__(self, store: Store, ranks: Ranks) -> None:
        self.store = store
        self.ranks = ranks
        self._values = PrefixStore("values", store)
        self._n_gathered = 0
        self._has_left = False

    def put(self, key: str, value: Any) -> None:
        """Leave a value, which must be picklable, under a key."""
        content = pickle.dumps(value)
        starts = range(0, len(content), _CHUNK_BYTES)
        for number, start in enumerate(starts):
            self._values.set(f"{key}/{number}", content[start : start + _CHUNK_BYTES])
        self._values.set(key, str(len(starts)))  # last: who sees it finds the rest

    def has(self, key: str) -> bool:
        """Say whether there is a value under a key."""
        return self._values.check([key])

    def take(self, *keys: str) -> Any:
        """Wait for a value under any of some keys.

        Returns that of the first key that has one.

        Raises:
            RankLost: another rank failed meanwhile.
            TimeoutError: there is none after `WAITING_TIMEOUT_S`.
        """
        wait_until(lambda: any(self.has(key) for key in keys) or self.has("failure"), WAITING_TIMEOUT_S)
        for key in keys:
            if self.has(key):
                return pickle.loads(b"".join(self._chunks(key)))
        raise RankLost(self.take("failure"))

    def gather(self, value: Any) -> list[Any]:
        """Exchange a value with all ranks; return everyone's, in rank order.

        Raises as `take` does.
        """
        number, own = self._n_gathered, self.ranks.rank
        self._n_gathered += 1
        self.put(f"{number}/{own}", value)
        values = [self.take(f"{number}/{rank}") for rank in range(self.ranks.n_ranks)]
        if number > 0:
            # All have begun this exchange, so all have read the one before.
            self._forget(f"{number - 1}/{own}")
        return values

    def fail(self, code: int) -> None:
        """Tell that this rank fails and ends with an exit code.

        Raises:
            RankLost: another rank did so before, or the store went with the rank that held it.
        """
        try:
            if self._values.add("failures", 1) > 1:
                raise RankLost(self.take("failure"))
            self.put("failure", code)
        except RuntimeError as error:  # torch's for a store that is gone
            raise RankLost(EXIT_DEFECT) from error

    def leave(self, *, wait_s: float) -> None:
        """Take leave of the others; once, as the store may be gone afterwards.

        Rank 0, which may hold the store, stays until they did or time is up.
        """
        if self._has_left:
            return
        self._has_left = True
        try:
            self._values.add("left", 1)
            if self.ranks.is_main:
                wait_until(lambda: self._values.add("left", 0) >= self.ranks.n_ranks, wait_s)
        except (RuntimeError, TimeoutError):
            return  # whoever is missing cannot be helped any more

    def _chunks(self, key: str) -> Iterator[bytes]:
        for number in range(int(self._values.get(key))):
            yield self._values.get(f"{key}/{number}")

    def _forget(self, key: str) -> None:
        n_chunks = int(self._values.get(key))
        for name in (key, *(f"{key}/{number}" for number in range(n_chunks))):
            self._values.delete_key(name)


@cache
def meet() -> Meeting:
    """Meet the other ranks of this job; once in a process's life.

    Raises:
        UserError: the ranks do not find each other at the address of the environment.
    """
    ranks = find_ranks()
    meetings = rendezvous("env://", rank=ranks.rank, world_size=ranks.n_ranks, timeout=MEETING_TIMEOUT)
    try:
        store, _, _ = next(meetings)
    except (RuntimeError, ValueError) as error:
        place = ":".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT"))
        told = str(error).strip().splitlines()[0]
        raise UserError(
            f"rank {ranks.rank} of {ranks.n_ranks} cannot meet the others at {place} ({told}); "
            "check MASTER_ADDR and MASTER_PORT"
        ) from error
    # The store may be that of torchrun itself, which outlives a job that it starts again.
    return Meeting(PrefixStore(f"start_{ranks.n_restarts}", store), ranks)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition.

    Looks again and again, so that Ctrl-C is heard meanwhile.

    Raises:
        TimeoutError: it does not hold after `seconds`.
    """
    sleep_s, end = _SHORTEST_SLEEP_S, time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the other ranks did not answer within {seconds:g} s")
        time.sleep(sleep_s)
        sleep_s = min(2 * sleep_s, _LONGEST_SLEEP_S)
