"""`train.sh` and `evaluate.sh`: which dataset, which folds, which arguments, which exit code."""

import os
import signal

import pytest

from util.evaluation import N_FOLDS


def prepare_chaost2(clone):
    volumes = clone.root / "data/CHAOST2/chaos_MR_T2_normalized"
    volumes.mkdir(parents=True)
    (volumes / "image_1.nii.gz").touch()


def folds_of(calls):
    return [argument for call in calls for argument in call if argument.startswith("eval_fold=")]


def test_a_named_dataset_runs_all_five_folds_in_order(clone):
    result = clone.run("script/train.sh", "dataset=SABS")
    assert folds_of(clone.calls()) == [f"eval_fold={k}" for k in range(N_FOLDS)]
    assert clone.calls()[0] == ["training.py", "with", "dataset=SABS", "eval_fold=0"]
    assert "== fold 1 of 5 (eval_fold=0): training SABS ==" in result.stdout
    assert "== fold 5 of 5 (eval_fold=4): training SABS ==" in result.stdout


def test_eval_fold_picks_one_fold(clone):
    result = clone.run("script/train.sh", "eval_fold=2", "dataset=SABS")
    assert clone.calls() == [["training.py", "with", "dataset=SABS", "eval_fold=2"]]
    assert "== eval_fold=2: training SABS ==" in result.stdout


def test_arguments_arrive_whole_in_order_and_from_any_folder(clone, tmp_path):
    words = ["test_label=[1, 4]", "path.log_dir=my runs/$HOME", "--debug", "-l", "DEBUG", "note='*'", "a=b=c"]
    clone.run("script/train.sh", "with", "dataset=CMR", "eval_fold=1", *words, cwd=tmp_path)
    assert clone.calls() == [["training.py", "with", "dataset=CMR", "eval_fold=1", *words]]


def test_blanks_and_quotes_around_values_are_read_as_sacred_reads_them(clone):
    clone.run("script/train.sh", "dataset = 'CMR'", "eval_fold = 3")
    assert clone.calls() == [["training.py", "with", "dataset=CMR", "eval_fold=3"]]


def test_without_arguments_prepared_chaost2_is_trained(clone):
    prepare_chaost2(clone)
    assert "PHANTOM" not in clone.run("script/train.sh").stdout
    assert clone.calls() == [["training.py", "with", "dataset=CHAOST2", f"eval_fold={k}"] for k in range(5)]


def test_without_chaost2_the_phantom_replaces_it_on_fold_0_with_a_notice(clone):
    result = clone.run("script/train.sh", "n_steps=3")
    assert "CHAOST2 is not prepared (data/CHAOST2 contains" in result.stdout
    assert "Using PHANTOM" in result.stdout
    assert clone.calls() == [["training.py", "with", "dataset=PHANTOM", "eval_fold=0", "n_steps=3"]]


def test_the_phantom_runs_other_folds_when_they_or_it_are_named(clone):
    clone.run("script/train.sh", "eval_fold=3")
    assert folds_of(clone.calls()) == ["eval_fold=3"]
    clone.run("script/train.sh", "dataset=PHANTOM")
    assert folds_of(clone.calls())[1:] == [f"eval_fold={k}" for k in range(5)]


@pytest.mark.parametrize("named", ["dataset=CHAOST2", "path.CHAOST2.data_dir=/nowhere"])
def test_a_dataset_that_is_named_is_never_replaced(clone, named):
    result = clone.run("script/train.sh", named, "eval_fold=0")
    assert "PHANTOM" not in result.stdout
    assert clone.calls()[0][:3] == ["training.py", "with", "dataset=CHAOST2"]


def test_dataset_wins_over_the_paths_of_others(clone):
    clone.run(
        "script/train.sh", "path.SABS.data_dir=/a", "dataset=CMR", "path.CMR.data_dir=/b", "eval_fold=0"
    )
    assert clone.calls()[0][2] == "dataset=CMR"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval_fold="], "eval_fold= has no value"),
        (["dataset= "], "dataset= has no value"),
        (["path.SABS.data_dir=/a", "path.CMR.data_dir=/b"], r"several datasets are set (CMR, SABS)"),
        (["mine.json"], "mine.json sets dataset; set it on the command line, too: dataset=<value>"),
        (["mine.json", "dataset=CMR"], "mine.json sets eval_fold; set it on the command line"),
    ],
)
def test_what_would_silently_run_something_else_is_refused(clone, arguments, message):
    (clone.root / "mine.json").write_text('{"dataset": "CMR", "eval_fold": 2}')
    result = clone.run("script/train.sh", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert not clone.calls()


def test_a_configuration_file_passes_when_the_command_line_settles_dataset_and_fold(clone):
    (clone.root / "mine.json").write_text('{"dataset": "CMR", "eval_fold": 2}')
    clone.run("script/train.sh", "mine.json", "dataset=CMR", "eval_fold=2")
    assert clone.calls() == [["training.py", "with", "dataset=CMR", "eval_fold=2", "mine.json"]]


def test_the_first_failing_fold_ends_the_loop_with_its_exit_code_and_name(clone):
    result = clone.run("script/train.sh", "dataset=SABS", STUB_FAILS="eval_fold=1")
    assert result.returncode == 7
    assert folds_of(clone.calls()) == ["eval_fold=0", "eval_fold=1"]
    assert "fold 2 of 5 (eval_fold=1): training SABS: failed with exit code 7" in result.stderr


def start_and_wait_for_fold_1(clone):
    job = clone.start("script/train.sh", "dataset=SABS", STUB_WAITS="eval_fold=1")
    for line in job.stdout:
        if line == "waiting\n":
            return job
    pytest.fail(job.stderr.read())


@pytest.mark.parametrize(
    ("send", "sent", "exit_code"),
    [
        (os.killpg, signal.SIGINT, 9),  # as a terminal's Ctrl-C: to script and child, whose clean-up says 9
        (os.kill, signal.SIGTERM, 128 + signal.SIGTERM),  # as a scheduler's: to the script; the child dies
        (os.kill, signal.SIGUSR1, 128 + signal.SIGUSR1),
    ],
)
def test_a_signal_stops_the_fold_and_the_loop(clone, send, sent, exit_code):
    job = start_and_wait_for_fold_1(clone)
    send(job.pid, sent)
    _, stderr = job.communicate(timeout=10)
    assert job.returncode == exit_code
    assert f"fold 2 of 5 (eval_fold=1): training SABS: stopped by {sent.name}" in stderr
    assert folds_of(clone.calls()) == ["eval_fold=0", "eval_fold=1"]


def test_evaluation_of_all_folds_ends_with_the_summary(clone):
    result = clone.run("script/evaluate.sh", "dataset=SABS", "test_label=[1, 6]")
    calls = clone.calls()
    assert result.returncode == 0
    assert folds_of(calls) == [f"eval_fold={k}" for k in range(5)]
    assert calls[0] == ["validation.py", "with", "dataset=SABS", "eval_fold=0", "test_label=[1, 6]"]
    assert calls[5:] == [["validation.py", "summarise", "with", "dataset=SABS", "test_label=[1, 6]"]]


def test_evaluation_of_one_fold_has_no_summary(clone):
    clone.run("script/evaluate.sh", "dataset=SABS", "eval_fold=4", "reload_model_path=my runs/1")
    assert clone.calls() == [
        ["validation.py", "with", "dataset=SABS", "eval_fold=4", "reload_model_path=my runs/1"]
    ]


def test_a_failed_summary_is_a_failed_evaluation(clone):
    result = clone.run("script/evaluate.sh", "dataset=SABS", STUB_FAILS="summarise")
    assert result.returncode == 7
    assert "all folds: summary of SABS: failed with exit code 7" in result.stderr


def test_one_snapshot_for_several_folds_is_refused(clone):
    result = clone.run("script/evaluate.sh", "dataset=SABS", "reload_model_path=runs/1")
    assert result.returncode == 2
    assert (
        "error: reload_model_path=runs/1: a snapshot belongs to one fold; add eval_fold=<0 to 4>"
        in result.stderr
    )
    assert not clone.calls()


def test_the_best_snapshots_of_all_folds_are_evaluated_together(clone):
    result = clone.run("script/evaluate.sh", "dataset=SABS", "reload_model_path=best")
    assert result.returncode == 0
    calls = clone.calls()
    assert [call[-1] for call in calls[:5]] == ["reload_model_path=best"] * 5
    assert calls[5:] == [["validation.py", "summarise", "with", "dataset=SABS"]]


@pytest.fixture(name="with_groups")
def _with_groups(clone):
    """A clone whose datasets have two organ groups; the folder that is looked into is in the calls."""
    (clone.root / "data/organ_groups.py").write_text(
        'import json, sys\nopen("looked_up.txt", "a").write(" ".join(sys.argv[1:]))\n'
        'sys.exit("error: no such data") if "/none" in sys.argv else print(2)\n'
    )
    return clone


@pytest.mark.parametrize(("script", "program"), [("train", "training.py"), ("evaluate", "validation.py")])
def test_setting_2_runs_each_organ_group_and_one_summary(with_groups, script, program):
    result = with_groups.run(f"script/{script}.sh", "dataset=SABS", "setting=2", "eval_fold=3")
    calls = [
        [program, "with", "dataset=SABS", "eval_fold=3", f"organ_group={group}", "setting=2"]
        for group in range(2)
    ]
    if script == "evaluate":
        calls.append([program, "summarise", "with", "dataset=SABS", "setting=2"])
        assert "== all organ groups: summary of SABS ==" in result.stdout
    assert with_groups.calls() == calls
    assert "training 2 of 2 (eval_fold=3 organ_group=1)" in result.stdout
    assert (with_groups.root / "looked_up.txt").read_text() == "SABS data/SABS"


def test_all_folds_of_a_group_come_before_the_next_group(with_groups):
    with_groups.run("script/train.sh", "dataset=Hips", "setting=2", "path.OWN.data_dir=/scans")
    assert [call[3:5] for call in with_groups.calls()] == [
        [f"eval_fold={fold}", f"organ_group={group}"] for group in range(2) for fold in range(5)
    ]
    assert (with_groups.root / "looked_up.txt").read_text() == "Hips /scans"


def test_an_organ_group_that_is_named_runs_alone(with_groups):
    with_groups.run("script/evaluate.sh", "dataset=SABS", "setting=2", "organ_group=1", "eval_fold=0")
    assert with_groups.calls() == [
        ["validation.py", "with", "dataset=SABS", "eval_fold=0", "setting=2", "organ_group=1"]
    ]
    assert not (with_groups.root / "looked_up.txt").exists()


def test_groups_that_cannot_be_looked_up_end_the_script(with_groups):
    result = with_groups.run("script/train.sh", "dataset=Hips", "setting=2", "path.OWN.data_dir=/none")
    assert result.returncode != 0
    assert "error: no such data" in result.stderr
    assert not with_groups.calls()


def test_one_snapshot_for_several_groups_is_refused(with_groups):
    words = ("dataset=SABS", "setting=2", "eval_fold=0", "reload_model_path=runs/1")
    result = with_groups.run("script/evaluate.sh", *words)
    assert result.returncode == 2
    assert "a snapshot belongs to one organ group; add organ_group=<number>" in result.stderr


@pytest.mark.parametrize("name", ["train", "evaluate", "compare", "test"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_printed_and_nothing_is_prepared(clone, name, flag):
    result = clone.run(f"script/{name}.sh", flag, VIRTUAL_ENV="")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: bash script/{name}.sh")
    assert not (clone.root / ".venv").exists()
