"""A mistake on the command line costs one line and exit code 2; a defect keeps its traceback."""

import json
import logging

import pytest

from config_ssl_upload import dataset_defaults
from script.workflows.experiment import make_experiment
from util.config.command_line import experiment_logger, run_command_line, run_guarded
from util.errors import UserError


@pytest.fixture(name="fresh_logger")
def _fresh_logger():
    """Make the logger's handler anew, for the stderr of the moment."""
    logger = logging.getLogger("hcpmnet")
    before = logger.handlers[:]

    def make():
        logger.handlers.clear()
        return experiment_logger()

    yield make
    logger.handlers[:] = before


@pytest.fixture(name="experiment")
def _experiment():
    """An experiment that does what its seed asks for, and keeps the configuration it saw."""
    experiment = make_experiment("training")
    experiment.seen = []

    @experiment.main
    def main(_config):
        experiment.seen.append(_config)
        if _config["seed"] == 1:
            raise UserError("scan 7: is bad")
        if _config["seed"] == 2:
            raise KeyboardInterrupt
        if _config["seed"] == 3:
            raise ZeroDivisionError("a defect")

    return experiment


@pytest.fixture(name="call")
def _call(experiment, fresh_logger, tmp_path, monkeypatch, capfd):
    """Call the experiment on PHANTOM with some words: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        fresh_logger()
        code = run_command_line(experiment, [*words, "dataset=PHANTOM"])
        return code, *capfd.readouterr()

    return call


def _run_folders(tmp_path):
    return sorted(path.parent.name for path in tmp_path.rglob("run.json"))


@pytest.mark.parametrize("words", [["n_steps=7"], ["with", "n_steps=7"]])
def test_with_may_be_left_out(call, experiment, tmp_path, words):
    code, _, stderr = call(*words)
    assert (code, stderr) == (0, "")
    assert experiment.seen[0]["n_steps"] == 7
    assert _run_folders(tmp_path / "runs" / "PHANTOM" / "fold_0" / "training") == ["1"]


def test_each_call_gets_the_next_run_folder(call, tmp_path):
    assert call("eval_fold=3")[0] == 0
    assert call("eval_fold=3")[0] == 0
    assert _run_folders(tmp_path / "runs" / "PHANTOM" / "fold_3" / "training") == ["1", "2"]


def test_nested_keys_are_overridden_one_by_one(call, experiment):
    assert call("optim.lr=0.25", "path.PHANTOM.data_dir=elsewhere", "task.gamma=[0.7,1.2]")[0] == 0
    config = experiment.seen[0]
    assert config["optim"] == dataset_defaults("PHANTOM", "strong")["optim"] | {"lr": 0.25}
    assert config["path"]["PHANTOM"]["data_dir"] == "elsewhere"
    assert config["task"]["gamma"] == [0.7, 1.2]


def test_a_configuration_file_sets_keys_and_words_win_over_it(call, experiment, tmp_path):
    content = {"eval_fold": 4, "optim": {"lr": 0.25}, "n_steps": 5}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert call("with", "mine.json", "n_steps=9")[0] == 0
    config = experiment.seen[0]
    assert (config["eval_fold"], config["optim"]["lr"], config["n_steps"]) == (4, 0.25, 9)
    assert config["model"]["encoder"] == "resnet18"  # PHANTOM's own default


BAD_WORDS = {
    "wrong value": (["n_steps=no"], "n_steps='no': must be a whole number of at least 1"),
    "wrong type": (["n_steps=5.5"], "n_steps=5.5: must be a whole number of at least 1"),
    "unknown key": (["n_stepss=5"], "n_stepss: unknown configuration key; did you mean n_steps?"),
    "unknown nested key": (
        ["optim.lrr=5"],
        "optim.lrr: unknown configuration key; did you mean optim.lr?",
    ),
    "group": (
        ["optim=5"],
        "optim=5: is a group of keys; set them one by one, as optim.<key>=<value>",
    ),
    "key below a key": (["optim.lr.x=5"], "optim.lr={'x': 5}: must be a number above 0"),
    "bad log folder": (["path.log_dir=taken"], "path.log_dir=taken: must be a folder, found a file"),
    "missing snapshot": (
        ["reload_model_path=gone.pt"],
        "reload_model_path=gone.pt: no such snapshot or run folder",
    ),
    "missing file": (
        ["with", "gone.json"],
        "gone.json: must be key=value or an existing configuration file (JSON)",
    ),
    "key without value": (
        ["with", "n_steps"],
        "n_steps: must be key=value or an existing configuration file (JSON)",
    ),
    "file of no known kind": (
        ["with", "taken"],
        "taken: must be key=value or an existing configuration file (JSON)",
    ),
    "broken file": (["with", "broken.json"], "broken.json: must be JSON ("),
    "file without keys": (["with", "list.json"], "list.json: must be a JSON object"),
    "unknown command": (["trian"], "trian: no such command; choose from main, print_config"),
    "unknown option": (["--bogus"], "invalid arguments '--bogus with dataset=PHANTOM'; write key=value"),
}


@pytest.mark.parametrize(("words", "message"), BAD_WORDS.values(), ids=BAD_WORDS)
def test_a_user_error_prints_one_line_and_leaves_no_run(call, experiment, tmp_path, words, message):
    (tmp_path / "taken").write_text("")
    (tmp_path / "broken.json").write_text('{"n_steps": ')
    (tmp_path / "list.json").write_text("[1]")
    code, _, stderr = call(*words)
    assert code == 2
    assert stderr.startswith(f"error: {message}")
    assert stderr.count("\n") == 1
    assert experiment.seen == []
    assert not (tmp_path / "runs").exists()


def test_a_missing_dataset_is_a_user_error(experiment, tmp_path, capfd):
    words = [f"path.log_dir={tmp_path}/runs", "dataset=CHAOST2", f"path.CHAOST2.data_dir={tmp_path}/gone"]
    assert run_command_line(experiment, words) == 2
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == 1
    assert "no such folder; put the prepared CHAOST2 volumes there" in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_user_error_during_the_run_prints_one_line(call):
    assert call("seed=1") == (2, "", "error: scan 7: is bad\n")


def test_an_interruption_has_its_own_exit_code(call):
    assert call("seed=2") == (130, "", "interrupted\n")


def test_a_bug_keeps_its_traceback(call):
    with pytest.raises(ZeroDivisionError, match="a defect"):
        call("seed=3")


@pytest.mark.parametrize("word", ["seed=1", "n_steps=no"])
def test_debug_shows_the_traceback_of_a_user_error(call, word):
    with pytest.raises(UserError):
        call("--debug", word)


def test_print_config_shows_what_would_be_used_and_runs_nothing(call, experiment, tmp_path):
    code, stdout, stderr = call("print_config", "n_steps=7")
    assert (code, stderr) == (0, "")
    assert "n_steps = 7" in stdout
    assert "encoder = 'resnet18'" in stdout
    assert experiment.seen == []
    assert not (tmp_path / "runs").exists()


def test_print_config_refuses_invalid_values(call):
    code, _, stderr = call("print_config", "n_steps=no")
    assert code == 2
    assert stderr == "error: n_steps='no': must be a whole number of at least 1\n"


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["help"]])
def test_help_is_printed(experiment, capfd, words):
    assert run_command_line(experiment, words) == 0
    stdout, stderr = capfd.readouterr()
    assert "print_config" in stdout
    assert stderr == ""


def test_sacreds_warnings_are_shown_but_not_the_duration_of_a_failed_run(experiment, fresh_logger, capfd):
    logger = fresh_logger()
    of_run = logger.getChild(experiment.path)
    of_run.error("Failed after %s!", "0:00:01")
    of_run.warning("Aborted after %s!", "0:00:01")
    logger.warning('Changed type of config entry "n_sv" from NoneType to int')
    of_run.warning("An error occurred in an observer")
    assert capfd.readouterr().err == "WARNING: An error occurred in an observer\n"


def test_a_plain_command_is_guarded_in_the_same_way(capsys):
    def refuse():
        raise UserError("volume: is missing\nmore")

    def interrupt():
        raise KeyboardInterrupt

    assert run_guarded(lambda: "ignored") == 0
    assert capsys.readouterr().err == ""
    assert run_guarded(refuse) == 2
    assert capsys.readouterr().err == "error: volume: is missing\n"
    assert run_guarded(interrupt) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(UserError):
        run_guarded(refuse, debug=True)
    with pytest.raises(ZeroDivisionError):
        run_guarded(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--loglevel=SILLY", "--loglevel=SILLY: must be a number or one of DEBUG"),
        ("--capture=wrong", "--capture=wrong: must be one of no, sys, fd"),
        ("=5", "=5: must be key=value"),
        ("config.pickle", "config.pickle: must be key=value or an existing configuration file"),
    ],
)
def test_options_on_which_sacred_would_crash_are_refused(call, tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.pickle").write_bytes(b"")
    code, _, stderr = call("with", word) if not word.startswith("--") else call(word)
    assert code == 2
    assert stderr.startswith(f"error: {message}")
    assert stderr.count("\n") == 1
