"""A process reads its rank from the environment, or reports what is wrong with it."""

import pytest

from util.errors import UserError
from util.parallel.ranks import Ranks, find_ranks

PLACE = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
ADDRESS = {"MASTER_ADDR": "first", "MASTER_PORT": "29500"}


def test_ranks_are_read_from_torchruns_variables():
    ranks = find_ranks(PLACE | ADDRESS)
    assert ranks == Ranks(rank=5, n_ranks=8, local_rank=1, n_local_ranks=4)
    assert (ranks.is_distributed, ranks.is_main, ranks.is_local_main) == (True, False, False)
    first_of_machine = find_ranks(PLACE | ADDRESS | {"RANK": "4", "LOCAL_RANK": "0"})
    assert (first_of_machine.is_main, first_of_machine.is_local_main) == (False, True)


@pytest.mark.parametrize(
    "environment",
    [{}, ADDRESS, {"WORLD_SIZE": "1", "RANK": "0"}, PLACE | ADDRESS | {"WORLD_SIZE": "1"}, {"RANK": ""}],
)
def test_a_process_without_torchrun_is_a_single_rank(environment):
    ranks = find_ranks(environment)
    assert ranks == Ranks()
    assert (ranks.is_distributed, ranks.is_main, ranks.is_local_main) == (False, True, True)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"RANK": "1"},
            "RANK in the environment but not WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR",
        ),
        (
            PLACE,
            "but not MASTER_ADDR, MASTER_PORT: start several processes with NPROC=<n> bash script/train.sh",
        ),
        (PLACE, "for one, unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE$"),
        (
            PLACE | ADDRESS | {"RANK": "8"},
            "RANK=8, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4: contradictory",
        ),
        (PLACE | ADDRESS | {"LOCAL_RANK": "4"}, "LOCAL_RANK=4, LOCAL_WORLD_SIZE=4: contradictory ranks"),
        (PLACE | ADDRESS | {"LOCAL_WORLD_SIZE": "9"}, "contradictory ranks"),
        (PLACE | ADDRESS | {"WORLD_SIZE": "many"}, "WORLD_SIZE=many, .*: contradictory ranks"),
    ],
)
def test_incomplete_or_contradictory_variables_are_refused(environment, message):
    with pytest.raises(UserError, match=message):
        find_ranks(environment)
