"""Run a command of `key=value` words that is not a sacred experiment."""

import sys
from collections.abc import Callable, Sequence

from util.config.command_line import run_guarded
from util.config.settings import Settings, describe_keys
from util.engine.signals import SignalHandler
from util.errors import EXIT_USER_ERROR, UserError


def run_word_command(run: Callable[[list[str]], int], words: Sequence[str] | None, *, usage: str) -> int:
    """Run a command and return its exit code.

    Args:
        run: takes the words without `--debug`, and returns the exit code.
        words: of the command line; None: this process's. `--debug` raises user errors instead of printing
            them.
        usage: printed for `-h` and `--help`.

    Returns:
        `run`'s code; 2 for bad input, with one line on stderr per problem; 130 if interrupted, 143 if
        terminated.
    """
    words = list(sys.argv[1:] if words is None else words)
    if "-h" in words or "--help" in words:
        print(usage)
        return 0
    debug = "--debug" in words
    problems: list[str] = []
    codes: list[int] = []

    def guarded() -> None:
        try:
            codes.append(run([word for word in words if word != "--debug"]))
        except UserError as error:
            if debug:
                raise
            problems.extend(str(error).splitlines())

    with SignalHandler():
        code = run_guarded(guarded, debug=debug)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return EXIT_USER_ERROR if problems else code or max(codes, default=0)


def describe_usage(model: type[Settings], command: str, *, footer: str) -> str:
    """Return the text for `--help`: command, keys with their meanings, last line."""
    keys = [(name, meaning) for name, _, _, meaning in describe_keys(model)]
    width = max(15, *(len(name) for name, _ in keys))
    return "\n".join(
        [f"usage: {command}", "", *(f"  {name:{width}} {meaning}" for name, meaning in keys), "", footer]
    )
