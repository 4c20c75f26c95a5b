"""Run a sacred experiment: one line for user errors, a traceback for bugs."""

import copy
import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from docopt import DocoptExit, docopt

from util.config.settings import SettingsError
from util.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, NothingToDo, Stopped, UserError
from util.io.json_files import read_json_object
from util.parallel.ranks import OtherRankFailed, find_ranks
from util.remarks import printed_remarks, remark

with warnings.catch_warnings():
    # sacred 0.8.7 imports the deprecated pkg_resources.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    import sacred
    from sacred.arg_parser import get_config_updates
    from sacred.utils import SacredError, recursive_update

_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_CAPTURE_MODES = ("no", "sys", "fd")
_MAX_DEPTH = 10  # levels of a configuration file
_KEY = re.compile(r"[A-Za-z_]\w*")

_MUTED_REMARKS = ("Changed type of config entry", "Failed after", "Aborted after")


def new_experiment(name: str, folder: Path) -> sacred.Experiment:
    """Create an experiment that records the git commit of a folder, if known."""
    try:
        if not (folder / ".git").exists():  # git would find a repository around an installed package
            raise FileNotFoundError(f"no .git in {folder}")
        experiment = sacred.Experiment(name, base_dir=folder)
    except Exception as error:  # no git, no commit yet, a clone owned by another user, a wrong GIT_DIR
        experiment = sacred.Experiment(name, base_dir=folder, save_git_info=False)
        experiment.git_fault = next(iter(str(error).strip().splitlines()), type(error).__name__)
    experiment.logger = experiment_logger()
    return experiment


def remark_on_unknown_commit(experiment: sacred.Experiment) -> None:
    """Remark that the commit of the code is unknown, if so."""
    if experiment.save_git_info is False:
        remark(
            f"commit unknown: git cannot read this clone ({experiment.git_fault}); the run is recorded "
            "without"
        )


def experiment_logger() -> logging.Logger:
    """Return a logger for sacred's warnings, without those that duplicate ours.

    Types are checked by the configuration itself, and failures are reported by the final line or traceback.
    """
    logger = logging.getLogger("hcpmnet")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        # On the handler, because a logger's own filter does not see its children's records.
        handler.addFilter(lambda record: not record.getMessage().startswith(_MUTED_REMARKS))
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    return logger


def run_command_line(
    experiment: sacred.Experiment,
    argv: Sequence[str] | None = None,
    *,
    worker_main: Callable[[dict[str, Any], Path], None] | None = None,
) -> int:
    """Run an experiment from command-line arguments and return the exit code.

    `with` may be omitted: a first argument that sets a key is taken as an override. A user error prints one
    line on stderr and returns code 2; `--debug` shows the traceback as well.

    With several ranks, only rank 0 does this. The others wait until its main command has started, call
    `worker_main`, and end with rank 0's exit code; errors are printed once.

    Args:
        experiment: the program.
        argv: the arguments; None: this process's.
        worker_main: takes rank 0's checked configuration (plain values) and run folder, and runs another
            rank's part of the main command. None: the program runs as one process.
    """
    try:
        ranks = find_ranks()
    except UserError as error:
        return _refuse(str(error))
    if not ranks.is_distributed:
        return _run_words(experiment, argv)
    if worker_main is None:
        message = "this program runs as one process; start it without NPROC and torchrun"
        return _refuse(message) if ranks.is_main else EXIT_USER_ERROR
    return _run_on_ranks(experiment, argv, worker_main=worker_main, is_main=ranks.is_main)


def _run_on_ranks(
    experiment: sacred.Experiment,
    argv: Sequence[str] | None,
    *,
    worker_main: Callable[[dict[str, Any], Path], None],
    is_main: bool,
) -> int:
    from util.parallel import joint_runs  # late: it imports torch, which --help does without
    from util.parallel.rank_store import get_rank_store

    try:
        get_rank_store()
    except UserError as error:
        return _refuse(str(error))
    if not is_main:
        return joint_runs.run_worker_rank(worker_main, guard=run_guarded)

    @contextmanager
    def with_other_ranks(command: str, debug: bool) -> Iterator[None]:
        if command == experiment.default_command:

            @experiment.pre_run_hook
            def share(_config: dict[str, Any], _run: Any) -> None:
                if _run.observers:
                    joint_runs.share_config(_config, Path(_run.observers[0].dir), debug=debug)

        with joint_runs.report_error_once():
            yield

    return joint_runs.run_main_rank(lambda: _run_words(experiment, argv, around=with_other_ranks))


def _run_words(
    experiment: sacred.Experiment,
    argv: Sequence[str] | None,
    *,
    around: Callable[[str, bool], AbstractContextManager] = lambda command, debug: nullcontext(),
) -> int:
    """Run a command inside the context manager that `around` makes of its name and `--debug`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "with" not in words:
        first = next((i for i, word in enumerate(words) if "=" in word and not word.startswith("-")), None)
        if first is not None:
            words.insert(first, "with")
    _, usage, internal_usage = experiment.get_usage()
    try:
        options = docopt(internal_usage, words, default_help=False)
    except DocoptExit:
        return _refuse(f"invalid arguments {' '.join(words)!r}; write key=value, or -h for help")
    if options["--help"] or options.get("help"):
        print(usage)
        return 0
    command = options.get("COMMAND") or experiment.default_command
    if command not in experiment.commands:
        return _refuse(f"{command}: no such command; choose from {', '.join(sorted(experiment.commands))}")
    debug = bool(options["--debug"])

    def run() -> None:
        with around(command, debug):
            _run(experiment, command, options)

    return run_guarded(run, debug=debug)


def _run(experiment: sacred.Experiment, command: str, options: dict) -> None:
    _check_options(options)
    updates, names = get_config_updates(options["UPDATE"])
    files = {name: _read_config_file(name) for name in names if name not in experiment.named_configs}
    values: dict[str, Any] = {}
    for content in files.values():
        recursive_update(values, copy.deepcopy(content))
    named_configs = [name for name in names if name in experiment.named_configs]
    try:
        experiment.run(command, recursive_update(values, updates), named_configs, options=options)
    except SettingsError as error:
        problems = [_with_file(problem, files, updates) for problem in error.problems]
        raise SettingsError(problems) from error
    except UserError as error:
        raise UserError(_with_file(str(error), files, updates)) from error


def _with_file(problem: str, files: Mapping[str, Mapping], updates: Mapping[str, Any]) -> str:
    """Prefix a message with the configuration file that set its key."""
    parts = re.match(r"[\w.]*", problem)[0].split(".")
    if not _is_set(updates, parts):
        for name in reversed(files):  # the last one that sets it wins
            if _is_set(files[name], parts):
                return f"{name}: {problem}"
    return problem


def _is_set(values: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _check_options(options: Mapping[str, Any]) -> None:
    """Reject options for which sacred would raise a traceback."""
    level = options.get("--loglevel")
    if level is not None and not (level.isdecimal() or level in _LOG_LEVELS):
        raise UserError(f"--loglevel={level}: must be a number or one of {', '.join(_LOG_LEVELS)}")
    capture = options.get("--capture")
    if capture is not None and capture not in _CAPTURE_MODES:
        raise UserError(f"--capture={capture}: must be one of {', '.join(_CAPTURE_MODES)}")
    for word in options["UPDATE"]:
        key = word.partition("=")[0].strip()
        if "=" in word and not all(_KEY.fullmatch(part) for part in key.split(".")):
            raise UserError(f"{word}: must be key=value")


def _read_config_file(name: str) -> dict[str, Any]:
    """Read a plain JSON file; sacred's readers of pickle, YAML and jsonpickle can execute code."""
    if not Path(name).is_file() or Path(name).suffix.lower() != ".json":
        raise UserError(f"{name}: must be key=value or an existing configuration file (JSON)")
    content = read_json_object(Path(name), kind="configuration file")
    if _depth(content) > _MAX_DEPTH:
        raise UserError(f"{name}: groups are nested too deep; use the keys that docs/configuration.md lists")
    for key in _keys(content):
        if not _KEY.fullmatch(key):
            raise UserError(
                f'{name}: {key!r} is not a key; nest the keys of a group, as {{"optim": {{"lr": 0.001}}}}'
            )
    return content


def _keys(value: Any) -> Iterator[str]:
    """Yield the keys of nested containers."""
    if isinstance(value, dict):
        yield from value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _keys(item)


def _depth(value: Any) -> int:
    """Count the levels of nested containers, without recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth


def run_guarded(main: Callable[[], object], *, debug: bool = False) -> int:
    """Run a command and return its exit code.

    That is 0; 2 for a user error (one line on stderr; `debug` raises it instead); 130 if interrupted; 128
    plus the number of a stop signal; or the code of another rank that failed first.
    """
    for stream in (sys.stdout, sys.stderr):  # file names may not fit the locale's encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with printed_remarks():
            main()
    except (UserError, SacredError) as error:
        if debug:
            raise
        return _refuse(str(error).strip().splitlines()[0])
    except NothingToDo as done:
        print(done)
    except Stopped as stopped:
        print(stopped if stopped.hint is None else f"{stopped}; {stopped.hint}", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OtherRankFailed as failed:
        return failed.code
    return 0


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR
