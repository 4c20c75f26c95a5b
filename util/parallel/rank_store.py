"""Key-value store on the network, shared by the ranks of a job.

Small Python values are exchanged here instead of by the process group: the store exists before the group,
allows waiting for hours while one rank prepares data, and reports a failed rank to those that wait for it.
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
from util.parallel.ranks import OtherRankFailed, Ranks, find_ranks

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)  # starting processes and importing, on a busy file system
WAIT_TIMEOUT_S = 12 * 3600.0  # one rank prepares data or evaluates its share
_CHUNK_BYTES = 4 * 2**20  # the store accepts at most 8 MiB per value
_MIN_SLEEP_S, _MAX_SLEEP_S = 0.001, 0.1


class RankStore:
    """Exchange picklable values between ranks.

    All ranks must call `gather` equally often and in the same order.

    Args:
        store: shared by the ranks of this job only.
        ranks: this process's rank.

    Attributes:
        store, ranks: as passed.
    """

    def __init__(self, store: Store, ranks: Ranks) -> None:
        self.store = store
        self.ranks = ranks
        self._values = PrefixStore("values", store)
        self._n_gathered = 0
        self._has_left = False

    def put(self, key: str, value: Any) -> None:
        """Store a picklable value under a key."""
        content = pickle.dumps(value)
        starts = range(0, len(content), _CHUNK_BYTES)
        for number, start in enumerate(starts):
            self._values.set(f"{key}/{number}", content[start : start + _CHUNK_BYTES])
        self._values.set(key, str(len(starts)))  # last: a rank that sees the key finds all chunks

    def has(self, key: str) -> bool:
        """Return whether a key has a value."""
        return self._values.check([key])

    def get(self, *keys: str) -> Any:
        """Wait until one of the keys has a value; returns that of the first such key.

        Raises:
            OtherRankFailed: another rank failed meanwhile.
            TimeoutError: none has a value after `WAIT_TIMEOUT_S`.
        """
        wait_until(lambda: any(self.has(key) for key in keys) or self.has("failure"), WAIT_TIMEOUT_S)
        for key in keys:
            if self.has(key):
                return pickle.loads(b"".join(self._chunks(key)))
        raise OtherRankFailed(self.get("failure"))

    def gather(self, value: Any) -> list[Any]:
        """All-gather a value; returns the values in rank order, and raises as `get` does."""
        number, rank = self._n_gathered, self.ranks.rank
        self._n_gathered += 1
        self.put(f"{number}/{rank}", value)
        values = [self.get(f"{number}/{other}") for other in range(self.ranks.n_ranks)]
        if number > 0:
            # All ranks have started this exchange, so all have finished the previous one.
            self._delete(f"{number - 1}/{rank}")
        return values

    def fail(self, code: int) -> None:
        """Report that this rank fails with an exit code.

        Raises:
            OtherRankFailed: another rank failed before, or the store is gone with the rank that hosted it.
        """
        try:
            if self._values.add("failures", 1) > 1:
                raise OtherRankFailed(self.get("failure"))
            self.put("failure", code)
        except RuntimeError as error:  # torch's, if the store is gone
            raise OtherRankFailed(EXIT_DEFECT) from error

    def close(self, *, wait_s: float) -> None:
        """Leave the store for good; further calls do nothing.

        Rank 0, which may host the store, waits at most `wait_s` until all others have left.
        """
        if self._has_left:
            return
        self._has_left = True
        try:
            self._values.add("left", 1)
            if self.ranks.is_main:
                wait_until(lambda: self._values.add("left", 0) >= self.ranks.n_ranks, wait_s)
        except (RuntimeError, TimeoutError):
            return  # nothing can be done about missing ranks

    def _chunks(self, key: str) -> Iterator[bytes]:
        for number in range(int(self._values.get(key))):
            yield self._values.get(f"{key}/{number}")

    def _delete(self, key: str) -> None:
        n_chunks = int(self._values.get(key))
        for name in (key, *(f"{key}/{number}" for number in range(n_chunks))):
            self._values.delete_key(name)


@cache
def get_rank_store() -> RankStore:
    """Connect to the store of this job; once per process.

    Raises:
        UserError: the rendezvous at the environment's address failed.
    """
    ranks = find_ranks()
    connections = rendezvous("env://", rank=ranks.rank, world_size=ranks.n_ranks, timeout=RENDEZVOUS_TIMEOUT)
    try:
        store, _, _ = next(connections)
    except (RuntimeError, ValueError) as error:
        address = ":".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT"))
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"rank {ranks.rank} of {ranks.n_ranks} cannot connect to the others at {address} ({reason}); "
            "check MASTER_ADDR and MASTER_PORT"
        ) from error
    # The store may be torchrun's own, which outlives a restart of the job.
    return RankStore(PrefixStore(f"start_{ranks.n_restarts}", store), ranks)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Poll a condition until it holds, so that Ctrl-C can interrupt the wait.

    Raises:
        TimeoutError: it does not hold after `seconds`.
    """
    sleep_s, end = _MIN_SLEEP_S, time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the other ranks did not answer within {seconds:g} s")
        time.sleep(sleep_s)
        sleep_s = min(2 * sleep_s, _MAX_SLEEP_S)
