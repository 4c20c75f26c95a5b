"""Console commands of an installed package, as `script/*.sh` of a clone.

No environment is prepared. Relative paths start at the current folder, where `data/` and `runs/` are then.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the modules: a clone or site-packages
_KEYS = "`hcpmnet-config` prints every key. Relative paths are relative to the current folder."
_FOLDS = """usage: {command} [key=value ...] [sacred options]

{what}. Without
dataset=, CHAOST2 is used if it is prepared under data/CHAOST2, else the synthetic PHANTOM.

  {command} dataset=CHAOST2
  {command} dataset=CHAOST2 eval_fold=0 {example}
  NPROC=2 {command} dataset=CHAOST2

"""
_USAGES = {
    "train": _FOLDS.format(
        command="hcpmnet-train",
        what="Trains one network per fold; each of the five folds is held out in turn",
        example="n_steps=2000 resume=latest",
    ),
    "evaluate": _FOLDS.format(
        command="hcpmnet-evaluate",
        what="Evaluates the latest training run of each fold, and sums them up",
        example="protocol=whole_volume",
    ),
    "compare": "usage: hcpmnet-compare <run> <run> [<run> ...] [out=<folder>] [common=True]\n\nCompares "
    "evaluations scan by scan with the first one; <run>@<method> takes another method.\n\n",
    "show_episodes": "usage: hcpmnet-show-episodes [key=value ...] [n_episodes=<n>] [output=<file>.png]\n"
    "       hcpmnet-show-episodes scan=<id> organ=<name> [key=value ...]\n\nDraws training episodes, or what "
    "the network makes of a query.\n\n",
}


def train() -> None:
    """Train every fold."""
    _run("train", "script/folds.py", "train")


def evaluate() -> None:
    """Evaluate every fold, and sum them up."""
    _run("evaluate", "script/folds.py", "evaluate")


def compare() -> None:
    """Compare evaluations."""
    _run("compare", "validation.py", "compare")


def show_episodes() -> None:
    """Draw training episodes, or a query."""
    _print_usage("show_episodes")
    from script.show_episodes import main  # late: --help does without torch

    sys.exit(main(sys.argv[1:]))


def predict() -> int:
    """Segment scans; returns the exit code."""
    from prediction import main

    return main(program="hcpmnet-predict")


def prepare() -> int:
    """Prepare a dataset, or bring predictions back; returns the exit code."""
    from data.prepare.__main__ import main

    return main(program="hcpmnet-prepare")


def serve() -> int:
    """Serve segmentation over HTTP; returns the exit code."""
    from script.server.__main__ import main

    return main(program="hcpmnet-serve")


def print_config() -> None:
    """Print every configuration key as a Markdown table."""
    _run("config", "config_ssl_upload.py")


def _run(name: str, program: str, *words: str) -> None:
    """Replace this process by a program, so that signals and exit codes are the program's own."""
    _print_usage(name)
    command = [sys.executable, str(ROOT / program), *words, *sys.argv[1:]]
    os.execv(sys.executable, command)


def _print_usage(name: str) -> None:
    """Print the usage and exit if it is requested."""
    if name in _USAGES and {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{_USAGES[name]}{_KEYS}")
        sys.exit()
