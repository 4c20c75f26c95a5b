"""Run a sacred experiment so that a user's mistake costs one line.

A defect keeps its traceback.
"""

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

from util.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, NothingToDo, Stopped, UserError
from util.io.json_files import read_json_object
from util.parallel.ranks import RankLost, find_ranks
from util.remarks import printed_remarks, remark

with warnings.catch_warnings():
    # sacred 0.8.7 imports pkg_resources, which says at each start that it will go.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    import sacred
    from sacred.arg_parser import get_config_updates
    from sacred.utils import SacredError, recursive_update

_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_CAPTURE_MODES = ("no", "sys", "fd")
_DEEPEST = 10  # levels of a configuration file
_KEY = re.compile(r"[A-Za-z_]\w*")

_MUTED_REMARKS = ("Changed type of config entry", "Failed after", "Aborted after")


def new_experiment(name: str, folder: Path) -> sacred.Experiment:
    """Make an experiment that records the commit of a folder, if git can say it."""
    try:
        experiment = sacred.Experiment(name, base_dir=folder)
    except Exception as error:  # no git, no commit yet, a clone of another user, a GIT_DIR of something else
        experiment = sacred.Experiment(name, base_dir=folder, save_git_info=False)
        experiment.git_fault = next(iter(str(error).strip().splitlines()), type(error).__name__)
    experiment.logger = experiment_logger()
    return experiment


def remark_on_unknown_commit(experiment: sacred.Experiment) -> None:
    """Remark that git cannot say the commit of the code."""
    if experiment.save_git_info is False:
        remark(
            f"commit unknown: git cannot read this clone ({experiment.git_fault}); the run is recorded "
            "without"
        )


def experiment_logger() -> logging.Logger:
    """Return a logger that tells sacred's warnings but not what others tell better.

    Types are checked by the configuration itself (None turning into a number is no news), and how a run
    failed is told by the one line or the traceback that ends it.
    """
    logger = logging.getLogger("hcpmnet")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        # The handler's, because a logger's own filter does not see what its children log.
        handler.addFilter(lambda record: not record.getMessage().startswith(_MUTED_REMARKS))
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    return logger


def run_command_line(
    experiment: sacred.Experiment,
    argv: Sequence[str] | None = None,
    *,
    follow: Callable[[dict[str, Any], Path], None] | None = None,
) -> int:
    """Run an experiment from command-line words and return the exit code.

    `with` may be left out: a first word that sets a key is taken as an override. Bad input ends in one line
    on stderr and code 2; `--debug` shows the traceback as well.

    Of several ranks, rank 0 alone does this. The others wait until its run of the main command has started,
    call `follow`, and end with rank 0's exit code. What rank 0 tells they do not repeat.

    Args:
        experiment: the program.
        argv: the words; None: this process's.
        follow: takes rank 0's checked configuration (plain values) and run folder, and does another rank's
            part of the main command. None: the program runs as one process.
    """
    try:
        ranks = find_ranks()
    except UserError as error:
        return _refuse(str(error))
    if not ranks.are_several:
        return _run_words(experiment, argv)
    if follow is None:
        told = "this program runs as one process; start it without NPROC and torchrun"
        return _refuse(told) if ranks.is_main else EXIT_USER_ERROR
    return _run_among_ranks(experiment, argv, follow=follow, is_main=ranks.is_main)


def _run_among_ranks(
    experiment: sacred.Experiment,
    argv: Sequence[str] | None,
    *,
    follow: Callable[[dict[str, Any], Path], None],
    is_main: bool,
) -> int:
    from util.parallel import joint_runs  # imports torch, which one process's --help has no need of

    try:
        joint_runs.meet()
    except UserError as error:
        return _refuse(str(error))
    if not is_main:
        return joint_runs.follow_lead(follow, guard=run_guarded)

    @contextmanager
    def jointly(command: str, debug: bool) -> Iterator[None]:
        if command == experiment.default_command:

            @experiment.pre_run_hook
            def hand_over(_config: dict[str, Any], _run: Any) -> None:
                if _run.observers:
                    joint_runs.share(_config, Path(_run.observers[0].dir), debug=debug)

        with joint_runs.told_once():
            yield

    return joint_runs.lead(lambda: _run_words(experiment, argv, around=jointly))


def _run_words(
    experiment: sacred.Experiment,
    argv: Sequence[str] | None,
    *,
    around: Callable[[str, bool], AbstractContextManager] = lambda command, debug: nullcontext(),
) -> int:
    """Run a command from words; `around` takes the command and `--debug`, and surrounds its run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "with" not in words:
        first = next((i for i, word in enumerate(words) if "=" in word and not word.startswith("-")), None)
        if first is not None:
            words.insert(first, "with")
    _, usage, internal_usage = experiment.get_usage()
    try:
        options = docopt(internal_usage, words, default_help=False)
    except DocoptExit:
        return _refuse(f"cannot understand {' '.join(words)!r}; write key=value, or -h for help")
    if options["--help"] or options.get("help"):
        print(usage)
        return 0
    command = options.get("COMMAND") or experiment.default_command
    if command not in experiment.commands:
        return _refuse(f"{command}: no such command; there are {', '.join(sorted(experiment.commands))}")
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
    except UserError as error:
        raise _with_file(error, files, updates) from error


def _with_file(error: UserError, files: Mapping[str, Mapping], updates: Mapping[str, Any]) -> UserError:
    """Name the configuration file that set the key which a message begins with."""
    parts = re.match(r"[\w.]*", str(error))[0].split(".")
    if not _is_set(updates, parts):
        for name in reversed(files):  # the last one that sets it wins
            if _is_set(files[name], parts):
                return UserError(f"{name}: {error}")
    return error


def _is_set(values: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse what sacred would end in a traceback for."""
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
    """Read a configuration file as plain JSON.

    Sacred would take pickles, YAML and jsonpickle's form of JSON, which can run code.
    """
    if not Path(name).is_file() or Path(name).suffix.lower() != ".json":
        raise UserError(f"{name}: must be key=value or an existing configuration file (JSON)")
    content = read_json_object(Path(name), what="configuration file")
    if _depth(content) > _DEEPEST:
        raise UserError(f"{name}: groups are nested too deep; give the keys that docs/configuration.md lists")
    for key in _keys(content):
        if not _KEY.fullmatch(key):
            raise UserError(
                f'{name}: {key!r} is no key; nest the keys of a group, as {{"optim": {{"lr": 0.001}}}}'
            )
    return content


def _keys(value: Any) -> Iterator[str]:
    """Yield the keys of nested containers that are not too deep."""
    if isinstance(value, dict):
        yield from value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _keys(item)


def _depth(value: Any) -> int:
    """Count the levels of nested containers, without a call for each."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth


def run_guarded(main: Callable[[], object], *, debug: bool = False) -> int:
    """Run a command and return its exit code.

    That is 0, 2 for bad input (told in one line on stderr; `debug` raises it instead), 130 when interrupted,
    128 and its number when a signal asked to stop, and another rank's code where that failed first and told
    why.
    """
    for stream in (sys.stdout, sys.stderr):  # names in any script, whatever the locale can show
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
        print(stopped if stopped.advice is None else f"{stopped}; {stopped.advice}", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except RankLost as lost:
        return lost.code
    return 0


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR
