"""Values left in the store are found by the others, in order, and a failed rank is not waited for."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from util.errors import UserError
from util.parallel.rank_store import Meeting, meet, wait_until
from util.parallel.ranks import RankLost, Ranks

N_RANKS = 3


@pytest.fixture(name="meetings")
def _meetings():
    """Meetings of three ranks that are threads of this process."""
    store = HashStore()
    return [Meeting(store, Ranks(rank, N_RANKS, rank, N_RANKS)) for rank in range(N_RANKS)]


@pytest.fixture(name="on_all")
def _on_all(meetings):
    """Call a function with every rank's meeting at once; the results or exceptions in rank order."""

    def call(function):
        with ThreadPoolExecutor(N_RANKS) as threads:
            futures = [threads.submit(function, meeting) for meeting in meetings]
        return [future.exception() or future.result() for future in futures]

    return call


def test_a_value_is_taken_by_whoever_asks_even_before_it_is_there(meetings):
    taken = []
    asking = threading.Thread(target=lambda: taken.append(meetings[2].take("answer")))
    asking.start()
    assert not meetings[1].has("answer")
    meetings[0].put("answer", {"n": 42})
    asking.join(10)
    assert taken == [{"n": 42}]
    assert meetings[1].take("question", "answer") == {"n": 42}


def test_the_first_of_several_keys_is_preferred(meetings):
    meetings[0].put("end", 0)
    meetings[0].put("work", "values")
    assert meetings[1].take("work", "end") == "values"


def test_values_are_gathered_in_rank_order_time_after_time(on_all):
    def exchange(meeting):
        return [meeting.gather((turn, meeting.ranks.rank)) for turn in range(3)]

    assert on_all(exchange) == [[[(turn, rank) for rank in range(N_RANKS)] for turn in range(3)]] * N_RANKS


def test_what_all_have_read_leaves_the_store(on_all, meetings):
    on_all(lambda meeting: meeting.gather("first"))
    n_keys = meetings[0].store.num_keys()
    on_all(lambda meeting: [meeting.gather(bytes(100)) for _ in range(20)])
    assert meetings[0].store.num_keys() == n_keys


def test_a_value_larger_than_the_store_takes_at_once_is_whole_again(meetings):
    value = bytes(range(256)) * 40_000
    meetings[0].put("large", value)
    assert meetings[1].take("large") == value


def test_a_rank_that_failed_is_not_waited_for(on_all):
    def exchange(meeting):
        if meeting.ranks.rank == 1:
            return meeting.fail(7)
        return meeting.gather("never complete")

    outcomes = on_all(exchange)
    assert outcomes[1] is None
    assert [(type(outcome), outcome.code) for outcome in outcomes[::2]] == [(RankLost, 7)] * 2


def test_only_the_first_failure_counts(meetings):
    meetings[2].fail(2)
    for later in meetings[:2]:
        with pytest.raises(RankLost, match="another rank of this job ended with exit code 2"):
            later.fail(1)


def test_rank_0_leaves_last(meetings, on_all):
    left = []

    def leave(meeting):
        if not meeting.ranks.is_main:
            time.sleep(0.1)
            left.append(meeting.ranks.rank)
        meeting.leave(wait_s=10)
        if meeting.ranks.is_main:
            left.append(0)

    on_all(leave)
    assert sorted(left) == [0, 1, 2]
    assert left[-1] == 0


def test_a_rank_that_leaves_twice_counts_once(meetings):
    for _ in range(N_RANKS):
        meetings[1].leave(wait_s=0)
    began = time.monotonic()
    meetings[0].leave(wait_s=0.2)
    assert time.monotonic() - began >= 0.2  # rank 2 is still there


def test_rank_0_does_not_wait_for_ever(meetings):
    meetings[0].leave(wait_s=0.05)


def test_waiting_ends_in_time():
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.05 s"):
        wait_until(lambda: False, 0.05)
    wait_until(lambda: True, 0.0)


def test_an_address_where_nobody_can_meet_is_told_in_one_line(monkeypatch):
    place = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"}.items():
        monkeypatch.setenv(name, str(value))
    meet.cache_clear()
    with pytest.raises(
        UserError, match=r"rank 0 of 2 cannot meet the others at 127\.0\.0\.1:99999"
    ) as caught:
        meet()
    assert "\n" not in str(caught.value)
