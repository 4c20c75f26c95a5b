"""Prepare a dataset from its download.

`python -m data.prepare dataset=CHAOST2 raw=<folder or zip>`; `script/prepare.sh` prepares Python first.
Everything is checked before anything is written. Then outdated volumes, supervoxels, fingerprint and contact
sheet are made.
"""

import ast
import sys
from collections.abc import Sequence
from typing import Any

from data.data_settings import PrepareConfig
from data.prepare.dataset import prepare_dataset
from util.config.command_line import run_guarded
from util.config.settings import describe_keys, parse_values
from util.engine.signals import SignalHandler
from util.errors import EXIT_USER_ERROR, UserError

_FLAGS = ("--check", "--force")
# Their values are names and folders, and a folder may be named 2019.
_TEXTS = ("dataset", "raw", "data_dir", "supervoxel_dir")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2, 130 or 143.

    2: bad input, with one line on stderr per problem; 130: interrupted; 143: terminated.
    """
    words = list(sys.argv[1:] if words is None else words)
    if "-h" in words or "--help" in words:
        print(_usage())
        return 0
    debug = "--debug" in words
    problems: list[str] = []

    def run() -> None:
        try:
            config = parse_words([word for word in words if word != "--debug"])
            prepare_dataset(config, progress=sys.stderr.isatty())
        except UserError as error:
            if debug:
                raise
            problems.extend(str(error).splitlines())

    with SignalHandler():
        code = run_guarded(run, debug=debug)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return EXIT_USER_ERROR if problems else code


def parse_words(words: Sequence[str]) -> PrepareConfig:
    """Parse `key=value` words, `--check` and `--force`, optionally after `with`.

    Raises:
        UserError: a word cannot be parsed, a key is unknown or missing, or a value breaks its rule.
    """
    values: dict[str, Any] = {}
    for word in words[1:] if words[:1] == ["with"] else words:
        name, equals, text = (part.strip() for part in word.partition("="))
        if word in _FLAGS:
            values[word.removeprefix("--")] = True
        elif not name or not equals or name.startswith("-"):
            raise UserError(f"cannot understand {word!r}; write key=value, or --help for the keys")
        else:
            values[name] = _value(name, text)
    return parse_values(PrepareConfig, values)


def _value(name: str, text: str) -> Any:
    """Read a value as sacred does: as a Python literal if it is one, or as text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return text if name in _TEXTS and not isinstance(value, str | None) else value


def _usage() -> str:
    lines = ["usage: python -m data.prepare dataset=<name> raw=<folder or zip> [key=value ...] [--check]", ""]
    lines += [f"  {name:15} {meaning}" for name, _, _, meaning in describe_keys(PrepareConfig)]
    return "\n".join([*lines, "", "`bash script/prepare.sh --help` says more."])


if __name__ == "__main__":
    sys.exit(main())
