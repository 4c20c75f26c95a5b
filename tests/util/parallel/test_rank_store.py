"""Ranks exchange values through the store in order, and do not wait for a failed rank."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from util.errors import UserError
from util.parallel.rank_store import RankStore, get_rank_store, wait_until
from util.parallel.ranks import OtherRankFailed, Ranks

N_RANKS = 3


@pytest.fixture(name="stores")
def _stores():
    """The stores of three ranks that are threads of this process."""
    shared = HashStore()
    return [RankStore(shared, Ranks(rank, N_RANKS, rank, N_RANKS)) for rank in range(N_RANKS)]


@pytest.fixture(name="on_all")
def _on_all(stores):
    """Call a function with every rank's store at once; the results or exceptions in rank order."""

    def call(function):
        with ThreadPoolExecutor(N_RANKS) as threads:
            futures = [threads.submit(function, store) for store in stores]
        return [future.exception() or future.result() for future in futures]

    return call


def test_a_rank_can_wait_for_a_value_that_is_not_stored_yet(stores):
    received = []
    asking = threading.Thread(target=lambda: received.append(stores[2].get("answer")))
    asking.start()
    assert not stores[1].has("answer")
    stores[0].put("answer", {"n": 42})
    asking.join(10)
    assert received == [{"n": 42}]
    assert stores[1].get("question", "answer") == {"n": 42}


def test_the_first_of_several_keys_is_preferred(stores):
    stores[0].put("end", 0)
    stores[0].put("work", "values")
    assert stores[1].get("work", "end") == "values"


def test_values_are_gathered_in_rank_order_repeatedly(on_all):
    def exchange(store):
        return [store.gather((turn, store.ranks.rank)) for turn in range(3)]

    assert on_all(exchange) == [[[(turn, rank) for rank in range(N_RANKS)] for turn in range(3)]] * N_RANKS


def test_values_read_by_all_ranks_are_deleted(on_all, stores):
    on_all(lambda store: store.gather("first"))
    n_keys = stores[0].store.num_keys()
    on_all(lambda store: [store.gather(bytes(100)) for _ in range(20)])
    assert stores[0].store.num_keys() == n_keys


def test_a_value_above_the_stores_size_limit_is_split_and_rejoined(stores):
    value = bytes(range(256)) * 40_000
    stores[0].put("large", value)
    assert stores[1].get("large") == value


def test_ranks_do_not_wait_for_a_failed_one(on_all):
    def exchange(store):
        if store.ranks.rank == 1:
            return store.fail(7)
        return store.gather("never complete")

    outcomes = on_all(exchange)
    assert outcomes[1] is None
    assert [(type(outcome), outcome.code) for outcome in outcomes[::2]] == [(OtherRankFailed, 7)] * 2


def test_only_the_first_failure_counts(stores):
    stores[2].fail(2)
    for later in stores[:2]:
        with pytest.raises(OtherRankFailed, match="another rank of this job ended with exit code 2"):
            later.fail(1)


def test_rank_0_leaves_last(stores, on_all):
    left = []

    def leave(store):
        if not store.ranks.is_main:
            time.sleep(0.1)
            left.append(store.ranks.rank)
        store.close(wait_s=10)
        if store.ranks.is_main:
            left.append(0)

    on_all(leave)
    assert sorted(left) == [0, 1, 2]
    assert left[-1] == 0


def test_a_rank_that_leaves_twice_counts_once(stores):
    for _ in range(N_RANKS):
        stores[1].close(wait_s=0)
    started = time.monotonic()
    stores[0].close(wait_s=0.2)
    assert time.monotonic() - started >= 0.2  # rank 2 is still there


def test_rank_0_does_not_wait_for_ever(stores):
    stores[0].close(wait_s=0.05)


def test_waiting_ends_in_time():
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.05 s"):
        wait_until(lambda: False, 0.05)
    wait_until(lambda: True, 0.0)


def test_an_unreachable_rendezvous_address_is_reported_in_one_line(monkeypatch):
    variables = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"}.items():
        monkeypatch.setenv(name, str(value))
    get_rank_store.cache_clear()
    with pytest.raises(
        UserError, match=r"rank 0 of 2 cannot connect to the others at 127\.0\.0\.1:99999"
    ) as caught:
        get_rank_store()
    assert "\n" not in str(caught.value)
