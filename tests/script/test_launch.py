"""NPROC starts the ranks of one job: their environment, threads, signals and exit code."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).parents[2]
NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
)

# Notes its arguments and place; then does what STUB_<rank> says: waits, or ends with that exit code.
STUB_RANK = f"""
import json, os, signal, sys, time
place = {{name: os.environ[name] for name in {NAMES} if name in os.environ}}
with open("ranks.jsonl", "a") as ranks:
    ranks.write(json.dumps([sys.argv[1:], place]) + "\\n")
todo = os.environ.get("STUB_" + place.get("RANK", "0"), "0")
if todo == "wait":
    os.write(1, b"waiting\\n")  # whole, where print would write twice
    time.sleep(30)
if todo == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(todo))
"""


@pytest.fixture(name="ranked")
def _ranked(clone):
    """A clone whose entry points note their places."""
    for name in ("training.py", "validation.py"):
        (clone.root / name).write_text(STUB_RANK)
    return clone


def ranks_of(clone):
    """List every process's arguments and place, those of a job in rank order."""
    file = clone.root / "ranks.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return sorted(map(json.loads, lines), key=lambda rank: (rank[0], rank[1].get("RANK", "")))


def train(clone, *words, **variables):
    return clone.run("script/train.sh", "dataset=SABS", "eval_fold=2", *words, **variables)


def test_nproc_starts_as_many_ranks_of_one_job(ranked):
    result = train(ranked, "n_steps=3", NPROC="2")
    assert (result.returncode, result.stdout) == (0, "== eval_fold=2: training SABS ==\n")
    arguments, environments = zip(*ranks_of(ranked), strict=True)
    assert list(arguments) == [["with", "dataset=SABS", "eval_fold=2", "n_steps=3"]] * 2
    port = environments[0]["MASTER_PORT"]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    assert list(environments) == [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    assert 1024 <= int(port) < 2**16


@pytest.mark.parametrize("variables", [{}, {"NPROC": "1"}, {"NPROC": ""}, {"NPROC": "1", "NNODES": "1"}])
def test_one_process_is_started_as_if_there_were_no_ranks(ranked, variables):
    assert train(ranked, **variables).returncode == 0
    assert [env for _, env in ranks_of(ranked)] == [{}]


def test_threads_that_the_user_chose_are_kept(ranked):
    train(ranked, NPROC="2", OMP_NUM_THREADS="5")
    assert [env["OMP_NUM_THREADS"] for _, env in ranks_of(ranked)] == ["5", "5"]


@pytest.mark.parametrize(("n_gpus", "n_ranks"), [(3, 3), (1, 1), (0, None)])
def test_nproc_gpu_means_a_rank_for_each_gpu(ranked, n_gpus, n_ranks):
    (ranked.root / "torch.py").write_text(f"class cuda:\n    device_count = staticmethod(lambda: {n_gpus})\n")
    result = train(ranked, NPROC="gpu")
    if n_ranks is None:
        assert result.returncode == 2
        assert "error: NPROC=gpu: this machine has no CUDA device; set NPROC to a number" in result.stderr
    assert len(ranks_of(ranked)) == (n_ranks or 0)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NPROC": "x"}, "NPROC=x: must be a whole number of at least 1, or gpu for one process per GPU"),
        ({"NPROC": "0"}, "NPROC=0: must be a whole number of at least 1"),
        ({"NPROC": "-2"}, "NPROC=-2: must be"),
        ({"NPROC": "1.5"}, "NPROC=1.5: must be"),
        ({"NNODES": "two"}, "NNODES=two: must be a whole number of at least 1"),
        ({"NNODES": "2", "MASTER_ADDR": "a"}, "NNODES=2 requires NODE_RANK: set NODE_RANK to 0, 1, ... on"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "NNODES=2 requires MASTER_ADDR"),
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK=2: must be 0 to 1 with NNODES=2"),
        ({"NPROC": "2", "MASTER_PORT": "http"}, "MASTER_PORT=http: must be a whole number"),
    ],
)
def test_processes_that_cannot_be_started_are_refused_in_one_line(ranked, variables, message):
    result = train(ranked, **variables)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert ranks_of(ranked) == []


def test_machines_number_their_ranks_on_and_each_fold_has_a_separate_port(ranked):
    machine = {"NPROC": "2", "NNODES": "3", "NODE_RANK": "1", "MASTER_ADDR": "first", "MASTER_PORT": "4000"}
    result = ranked.run("script/evaluate.sh", "dataset=SABS", **machine)
    assert result.returncode == 0
    environments = [env for _, env in ranks_of(ranked)]
    assert [env["RANK"] for env in environments] == ["2", "3"] * 5
    assert {(env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"], env["MASTER_ADDR"]) for env in environments} == {
        ("6", "2", "first")
    }
    ports = [env["MASTER_PORT"] for env in environments]
    assert ports[::2] == ports[1::2]
    assert sorted(set(ports)) == ["4001", "4002", "4003", "4004", "4005"]
    assert "summary" not in result.stdout  # that is the first machine's


def test_the_summary_is_one_process(ranked):
    ranked.run("script/evaluate.sh", "dataset=SABS", NPROC="2")
    arguments, environments = zip(*ranks_of(ranked), strict=True)
    assert len(arguments) == 11
    assert [env for words, env in zip(arguments, environments, strict=True) if words[0] == "summarise"] == [
        {}
    ]


@pytest.mark.parametrize("stubs", [{"STUB_0": "7"}, {"STUB_1": "7"}, {"STUB_0": "7", "STUB_1": "7"}])
def test_a_failing_ranks_exit_code_is_the_jobs(ranked, stubs):
    result = train(ranked, NPROC="2", **stubs)
    assert result.returncode == 7
    assert result.stderr.splitlines()[-1] == "== eval_fold=2: training SABS: failed with exit code 7 =="
    assert "Traceback" not in result.stderr


def test_a_killed_rank_is_reported(ranked):
    result = train(ranked, NPROC="2", STUB_1="kill")
    assert result.returncode == 128 + signal.SIGKILL
    assert "error: local rank 1 was killed by SIGKILL\n" in result.stderr


def test_ranks_that_outlive_a_failed_one_are_terminated(ranked):
    command = "import launch; launch.GRACE_PERIOD_S = 0.2; launch.main()"
    result = subprocess.run(
        [sys.executable, "-c", command, "training.py"],
        cwd=ranked.root,
        env={"PYTHONPATH": str(ranked.root / "script"), "NPROC": "3", "STUB_1": "4", "STUB_2": "wait"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (result.returncode, result.stderr) == (4, "")


@pytest.mark.parametrize(
    ("send", "sent"),
    [
        (os.killpg, signal.SIGINT),  # as a terminal's Ctrl-C: to script and ranks
        (os.kill, signal.SIGTERM),  # as a scheduler's: to the script
        (os.kill, signal.SIGUSR1),
    ],
)
def test_signals_reach_all_ranks(ranked, send, sent):
    job = ranked.start(
        "script/train.sh", "dataset=SABS", "eval_fold=2", NPROC="2", STUB_0="wait", STUB_1="wait"
    )
    waiting = 0
    for line in job.stdout:
        waiting += line == "waiting\n"
        if waiting == 2:
            break
    send(job.pid, sent)
    _, stderr = job.communicate(timeout=10)
    assert job.returncode == 128 + sent
    assert stderr.splitlines()[-1] == f"== eval_fold=2: training SABS: stopped by {sent.name} =="


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_help_documents_several_processes_and_machines(clone, name):
    help_text = clone.run(f"script/{name}.sh", "--help").stdout
    for word in ("NPROC=4", "NPROC=gpu", "NNODES=2", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        assert word in help_text


class TestSlurm:
    """The Slurm example; sbatch runs a copy of it from elsewhere."""

    @pytest.fixture(name="start")
    def _start(self, ranked, tmp_path):
        copy = tmp_path / "slurm_script"
        copy.write_bytes((REPO_ROOT / "script/slurm_train.sbatch").read_bytes())

        def start(*words, **variables):
            return subprocess.Popen(
                ["bash", str(copy), *words],
                cwd=tmp_path,
                env=ranked.variables
                | {"SLURM_SUBMIT_DIR": str(ranked.root), "SLURM_ARRAY_TASK_ID": "3"}
                | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        return start

    @pytest.mark.parametrize(
        ("variables", "n_ranks"),
        [({}, 1), ({"SLURM_GPUS_ON_NODE": "2"}, 2), ({"SLURM_GPUS_ON_NODE": "4", "NPROC": "3"}, 3)],
    )
    def test_an_array_task_trains_its_fold_with_a_rank_for_each_gpu(self, ranked, start, variables, n_ranks):
        job = start("dataset=SABS", "note=two words", **variables)
        _, stderr = job.communicate(timeout=30)
        assert job.returncode == 0, stderr
        expected = ["with", "dataset=SABS", "eval_fold=3", "note=two words"]
        assert [arguments for arguments, _ in ranks_of(ranked)] == [expected] * n_ranks

    def test_the_warning_before_the_time_limit_reaches_the_training(self, start):
        job = start("dataset=SABS", STUB_0="wait")
        for line in job.stdout:
            if line == "waiting\n":
                break
        job.send_signal(signal.SIGUSR1)
        _, stderr = job.communicate(timeout=10)
        assert job.returncode == 128 + signal.SIGUSR1
        assert "== eval_fold=3: training SABS: stopped by SIGUSR1 ==" in stderr

    def test_a_failed_training_is_a_failed_task(self, start):
        job = start("dataset=SABS", STUB_0="7")
        job.communicate(timeout=30)
        assert job.returncode == 7

    def test_submission_from_another_folder_is_refused(self, start, tmp_path):
        job = start(SLURM_SUBMIT_DIR=str(tmp_path))
        _, stderr = job.communicate(timeout=10)
        assert (job.returncode, stderr) == (
            2,
            f"error: {tmp_path} is not the repository's root; submit from there\n",
        )
