"""Ranks exchange values and buffers, and raise errors together; a single rank exchanges nothing."""

import time
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from tests.util.parallel.small_jobs import run_job, stop_ranks
from util.errors import UserError
from util.parallel.collectives import (
    average_buffers,
    broadcast_value,
    gather_values,
    local_main_first,
    run_on_all_ranks,
    start_group,
    start_ranks,
)
from util.parallel.ranks import Ranks, find_ranks

LARGE = 9 * 2**20  # bytes; more than the store takes at once


def _refuse(text):
    raise UserError(text)


def _uneven_module(rank):
    """Make a module whose statistics differ between ranks, beside constants that do not."""
    module = nn.BatchNorm1d(3)
    module.running_mean.copy_(torch.tensor([0.0, 1.0, 2.0]) * (rank + 1))
    module.running_var.copy_(torch.tensor([1.0, 4.0, 9.0]) - rank)
    module.register_buffer("constant", torch.tensor([0.1, 1 / 3, 7e-20]))
    module.register_buffer("count", torch.tensor([7]))
    return module


def _exchange():
    """Use everything once, in one job, because each costs a start."""
    before_group = gather_values(find_ranks().rank)
    ranks = start_ranks("cpu")
    total = torch.tensor([ranks.rank + 1.0])
    distributed.all_reduce(total)
    module = _uneven_module(ranks.rank)
    average_buffers(module)
    return {
        "ranks": ranks,
        "backend": distributed.get_backend(),
        "before_group": before_group,
        "sum": total.item(),
        "broadcast": broadcast_value({"seed": ranks.rank + 40, "of": (1, None)}),
        "gathered": gather_values([ranks.rank] * (2 - ranks.rank)),
        "large": [len(value) for value in gather_values(bytes(LARGE + ranks.rank))],
        "result": run_on_all_ranks(lambda: ranks.rank * 10),
        "buffers": {name: buffer.tolist() for name, buffer in module.named_buffers()},
    }


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """Return what every rank of a job of two got."""
    outcomes = run_job(_exchange, tmp_path_factory.mktemp("exchange"))
    assert [(outcome.code, outcome.stderr) for outcome in outcomes] == [(0, ""), (0, "")]
    return [outcome.result for outcome in outcomes]


def test_every_rank_joins_a_gloo_group_on_cpus(exchanged):
    assert [result["ranks"] for result in exchanged] == [Ranks(0, 2, 0, 2), Ranks(1, 2, 1, 2)]
    assert [result["backend"] for result in exchanged] == ["gloo", "gloo"]
    assert [result["sum"] for result in exchanged] == [3.0, 3.0]


def test_values_of_any_size_reach_every_rank_in_rank_order(exchanged):
    for result in exchanged:
        assert result["before_group"] == [0, 1]
        assert result["gathered"] == [[0, 0], [1]]
        assert result["large"] == [LARGE, LARGE + 1]
        assert result["broadcast"] == {"seed": 40, "of": (1, None)}


def test_each_rank_gets_the_result_of_its_own_step(exchanged):
    assert [result["result"] for result in exchanged] == [0, 10]


def test_running_statistics_become_their_means_and_constants_stay(exchanged):
    for result in exchanged:
        assert result["buffers"]["running_mean"] == [0.0, 1.5, 3.0]
        assert result["buffers"]["running_var"] == [0.5, 3.5, 8.5]
        assert result["buffers"]["constant"] == torch.tensor([0.1, 1 / 3, 7e-20]).tolist()
        assert result["buffers"]["count"] == [7]


def _fail_on(failing):
    """Agree where some ranks are failing, then exchange once more: nobody may have been left behind."""
    rank = find_ranks().rank
    message = None
    try:
        run_on_all_ranks(lambda: _refuse(f"scan {rank}: is bad") if rank in failing else None)
    except UserError as error:
        message = str(error)
    return message, gather_values(rank)


@pytest.mark.parametrize(
    ("failing", "message"),
    [((1,), "rank 1: scan 1: is bad"), ((0, 1), "scan 0: is bad"), ((), None)],
)
def test_an_error_of_some_ranks_is_raised_on_all(tmp_path, failing, message):
    outcomes = run_job(_fail_on, tmp_path, failing)
    assert [outcome.result for outcome in outcomes] == [(message, [0, 1])] * 2


def _prepare(folder):
    """Prepare a file slowly on the first rank of a machine, read it on the others."""
    ranks = find_ranks()
    file = Path(folder) / f"machine_{ranks.rank // ranks.n_local_ranks}"

    def step():
        if file.exists():
            return "read"
        time.sleep(0.3)
        file.write_text("")
        return "made"

    return local_main_first(step)


def test_one_rank_of_each_machine_prepares_before_the_others_read(tmp_path):
    outcomes = run_job(_prepare, tmp_path, str(tmp_path), n_ranks=4, n_local_ranks=2)
    assert [outcome.result for outcome in outcomes] == ["made", "read", "made", "read"]


def _fail_to_prepare(refusing):
    local_main_first(lambda: _refuse("no scans") if find_ranks().rank == refusing else None)


@pytest.mark.parametrize(("refusing", "message"), [(0, "no scans"), (1, "rank 1: no scans")])
def test_a_failed_preparation_fails_on_all_ranks(tmp_path, refusing, message):
    outcomes = run_job(_fail_to_prepare, tmp_path, refusing)
    assert [str(outcome.result) for outcome in outcomes] == [message] * 2


def test_a_device_that_ranks_cannot_have_is_refused_on_all(tmp_path):
    name = f"cuda:{torch.cuda.device_count() + 1}"
    outcomes = run_job(start_ranks, tmp_path, name)
    message = [str(outcome.result) for outcome in outcomes]
    assert message[0].startswith(
        f"device={name}: 2 ranks cannot share it; use device=cuda, which gives each one"
    )
    assert message[1] == message[0]


def _sum_on_gpu():
    device = torch.device("cuda", 0)
    start_group(device, find_ranks())
    sums = []
    for target in (device, "cpu"):
        total = torch.ones(2, device=target)
        distributed.all_reduce(total)
        sums.append(total.tolist())
    stop_ranks()
    return sums


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_group_on_gpus_takes_tensors_of_gpu_and_cpu_alike(tmp_path):
    [outcome] = run_job(_sum_on_gpu, tmp_path, n_ranks=1)
    assert outcome.result == [[1.0, 1.0], [1.0, 1.0]]
    assert (outcome.code, outcome.stderr) == (0, "")


def test_a_single_rank_exchanges_nothing_and_starts_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    module = _uneven_module(1)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    average_buffers(module)
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name])
    assert start_ranks("cpu") == Ranks()
    assert not distributed.is_initialized()
    value = object()
    assert broadcast_value(value) is value
    assert gather_values(value) == [value]
    assert run_on_all_ranks(lambda: value) is value
    assert local_main_first(lambda: value) is value
    with pytest.raises(UserError, match=r"^alone$"):
        run_on_all_ranks(lambda: _refuse("alone"))
    stop_ranks()
