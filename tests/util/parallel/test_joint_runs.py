"""A program on two ranks behaves as one process: one run, one error line, one exit code."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from script.workflows.experiment import make_experiment
from tests.util.parallel.small_jobs import run_job, start_elastic_job
from util.config.command_line import run_command_line
from util.errors import UserError
from util.parallel.collectives import run_on_all_ranks, start_ranks

# A seed says what goes wrong in the tiny program; other seeds go well.
ON_ALL_RANKS, ONE_ALONE, ALL, MAIN_ALONE, DEFECT_OF_ONE, DEFECT_OF_MAIN, INTERRUPTED, KILLED, AFTERWARDS = (
    range(1, 10)
)


def run_tiny_program(words):
    """Run an experiment whose main command sums over the ranks, and goes wrong by its seed."""
    experiment = make_experiment("training")

    @experiment.main
    def main(_config, _run):
        if not _run.observers:
            raise UserError("leave out --unobserved")
        _work(_config, Path(_run.observers[0].dir))
        if _config["seed"] == AFTERWARDS:
            raise UserError("the table cannot be written")

    @experiment.command(unobserved=True)
    def summarise():
        print("summed up")

    return run_command_line(experiment, words, worker_main=_work)


def _work(config, run_dir):
    ranks = start_ranks(config["device"])
    total = torch.ones(1)
    distributed.all_reduce(total)
    print(f"{total.item():g} ranks work")
    (run_dir / f"rank_{ranks.rank}.json").write_text(json.dumps(config, sort_keys=True))
    _go_wrong(config["seed"], ranks)
    distributed.all_reduce(total)  # where the others are stuck if one gave up


def _go_wrong(seed, ranks):
    if seed == ON_ALL_RANKS:
        run_on_all_ranks(lambda: None if ranks.is_main else _refuse())
    elif seed == ALL or (seed == ONE_ALONE and not ranks.is_main) or (seed == MAIN_ALONE and ranks.is_main):
        _refuse()
    elif (seed == DEFECT_OF_ONE and not ranks.is_main) or (seed == DEFECT_OF_MAIN and ranks.is_main):
        raise ZeroDivisionError("a defect")
    elif seed == INTERRUPTED:
        raise KeyboardInterrupt
    elif seed == KILLED and not ranks.is_main:
        os.kill(os.getpid(), signal.SIGKILL)


def _refuse():
    raise UserError("scan 7: is bad")


def _run_in(folder, words):
    os.chdir(folder)
    return run_tiny_program(words)


@pytest.fixture(name="run")
def _run(tmp_path):
    """Run the tiny program with some words on two ranks; the outcomes of both."""

    def run(*words):
        rest = [] if "--help" in words else ["dataset=PHANTOM", "device=cpu"]
        return run_job(_run_in, tmp_path, tmp_path, [*words, *rest])

    return run


def _status(folder):
    """Return how the run's record says that it ended; None without a run."""
    file = folder / "runs/PHANTOM/fold_0/training/1/run.json"
    return json.loads(file.read_text())["status"] if file.exists() else None


def test_rank_0_records_the_run_and_the_others_use_its_configuration_and_folder(run, tmp_path):
    outcomes = run("n_steps=7", "optim.lr=0.25")
    assert [(outcome.result, outcome.stderr) for outcome in outcomes] == [(0, ""), (0, "")]
    assert [outcome.stdout for outcome in outcomes] == ["2 ranks work\n", ""]
    [record] = tmp_path.rglob("run.json")
    assert _status(tmp_path) == "COMPLETED"
    texts = [(record.parent / f"rank_{rank}.json").read_text() for rank in (0, 1)]
    assert texts[0] == texts[1]
    config = json.loads(texts[0])
    assert (config["n_steps"], config["optim"]["lr"], config["model"]["encoder"]) == (7, 0.25, "resnet18")


@pytest.mark.parametrize(
    ("word", "line", "status"),
    [
        (f"seed={ON_ALL_RANKS}", "error: rank 1: scan 7: is bad\n", "FAILED"),
        (f"seed={ALL}", "error: scan 7: is bad\n", "FAILED"),
        (f"seed={ONE_ALONE}", "error: rank 1: scan 7: is bad\n", "FAILED"),
        (f"seed={MAIN_ALONE}", "error: scan 7: is bad\n", "FAILED"),
        (f"seed={AFTERWARDS}", "error: the table cannot be written\n", "FAILED"),
        ("n_steps=no", "error: n_steps='no': must be a whole number of at least 1\n", None),
        ("trian", "error: trian: no such command; choose from main, print_config", None),
        ("--unobserved", "error: leave out --unobserved\n", None),
    ],
)
def test_a_user_error_prints_one_line_and_gives_code_2_on_every_rank(run, tmp_path, word, line, status):
    outcomes = run(word)
    assert [(outcome.result, outcome.code) for outcome in outcomes] == [(2, 0), (2, 0)]
    message = "".join(outcome.stderr for outcome in outcomes)
    assert message.startswith(line)
    assert message.count("\n") == 1
    assert _status(tmp_path) == status


@pytest.mark.parametrize(("seed", "rank"), [(DEFECT_OF_MAIN, 0), (DEFECT_OF_ONE, 1)])
def test_a_bug_prints_one_traceback_and_ends_all_ranks(run, tmp_path, seed, rank):
    outcomes = run(f"seed={seed}")
    assert "ZeroDivisionError: a defect" in outcomes[rank].stderr
    assert outcomes[1 - rank].stderr == ""
    # The rank itself ends by its exception; the other takes over the code that this means.
    assert (outcomes[rank].code, outcomes[1 - rank].result) == (1, 1)
    assert _status(tmp_path) == "FAILED"


def test_an_interruption_of_all_ranks_is_reported_once(run, tmp_path):
    outcomes = run(f"seed={INTERRUPTED}")
    assert [outcome.result for outcome in outcomes] == [130, 130]
    assert "".join(outcome.stderr for outcome in outcomes) == "interrupted\n"
    assert _status(tmp_path) == "INTERRUPTED"


def test_a_rank_that_is_killed_does_not_leave_the_others_waiting(run, tmp_path):
    outcomes = run(f"seed={KILLED}")
    assert (outcomes[0].code, outcomes[1].code) == (1, -signal.SIGKILL)
    assert _status(tmp_path) == "FAILED"


@pytest.mark.parametrize(
    ("word", "message"),
    [("--help", "print_config"), ("print_config", "n_steps = "), ("summarise", "summed up")],
)
def test_only_rank_0_runs_other_commands(run, word, message):
    outcomes = run(word)
    assert message in outcomes[0].stdout
    assert [(outcome.result, outcome.stderr) for outcome in outcomes] == [(0, ""), (0, "")]
    assert outcomes[1].stdout == ""


def _run_without_worker_main(folder):
    os.chdir(folder)
    return run_command_line(make_experiment("training"), ["dataset=PHANTOM"])


def test_a_program_of_one_process_refuses_several(tmp_path):
    outcomes = run_job(_run_without_worker_main, tmp_path, tmp_path)
    assert [outcome.result for outcome in outcomes] == [2, 2]
    assert "".join(outcome.stderr for outcome in outcomes).startswith(
        "error: this program runs as one process"
    )
    assert outcomes[1].stderr == ""


def _run_elastic_rank(folder, words):
    sys.exit(_run_in(folder, words))


def test_it_runs_when_torchrun_starts_it(tmp_path):
    words = ["seed=20", "dataset=PHANTOM", "device=cpu"]
    [agent] = start_elastic_job(_run_elastic_rank, tmp_path, tmp_path, words).join()
    assert (agent.result, agent.stdout, agent.stderr) == (0, "2 ranks work\n", "")
    assert _status(tmp_path) == "COMPLETED"
