"""Prepare a dataset from its download.

`python -m data.prepare dataset=CHAOST2 raw=<folder or zip>`; `script/prepare.sh` prepares Python first.
Everything is checked before anything is written. Then outdated volumes, supervoxels, fingerprint and contact
sheet are made. With `back=<folder>` predictions of prepared scans are brought to the raw grids instead.
"""

import sys
from collections.abc import Sequence

from data.data_settings import PrepareConfig, RestoreConfig
from data.prepare.dataset import prepare_dataset
from data.prepare.original_predictions import restore_predictions
from util.config import key_value_words
from util.engine.word_command import describe_usage, run_word_command
from util.errors import UserError

_FLAGS = ("--check", "--force")
# Their values are names and folders, and a folder may be named 2019.
_TEXTS = ("dataset", "raw", "data_dir", "supervoxel_dir", "back", "out")
_BACK = "--back"


def main(words: Sequence[str] | None = None, *, program: str = "python -m data.prepare") -> int:
    """Run the command and return its exit code: 0, 2, 130 or 143.

    2: bad input, with one line on stderr per problem; 130: interrupted; 143: terminated. `program` is its
    name in --help.
    """

    def run(words: list[str]) -> int:
        config = parse_words(words)
        if isinstance(config, RestoreConfig):
            restore_predictions(config)
        else:
            prepare_dataset(config, progress=sys.stderr.isatty())
        return 0

    usage = describe_usage(
        PrepareConfig,
        f"{program} dataset=<name> raw=<folder or zip> [key=value ...] [--check]",
        footer="",
    )
    usage += describe_usage(
        RestoreConfig,
        f"{program} dataset=<name> --back <folder> [key=value ...]",
        footer="`bash script/prepare.sh --help` says more.",
    )
    return run_word_command(run, words, usage=usage)


def parse_words(words: Sequence[str]) -> PrepareConfig | RestoreConfig:
    """Parse `key=value` words and options, optionally after `with`.

    Options are `--check`, `--force` and `--back <folder>`.

    Raises:
        UserError: a word cannot be parsed, a key is unknown or missing, or a value breaks its rule.
    """
    words = list(words)
    if _BACK in words:
        index = words.index(_BACK)
        words[index : index + 2] = [f"back={_folder_after(_BACK, words[index + 1 :])}"]
    if any(word.partition("=")[0].strip() == "back" for word in words):
        return key_value_words.parse_words(RestoreConfig, words, texts=_TEXTS)
    return key_value_words.parse_words(PrepareConfig, words, flags=_FLAGS, texts=_TEXTS)


def _folder_after(option: str, words: Sequence[str]) -> str:
    word = words[0] if words else ""
    if not word or word.startswith("--") or word.partition("=")[0] in RestoreConfig.model_fields:
        raise UserError(f"{option}: needs a folder, as {option} runs/CHAOST2/fold_0/evaluation/1")
    return word


if __name__ == "__main__":
    sys.exit(main())
