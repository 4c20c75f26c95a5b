"""Run training.py or validation.py fold by fold.

Usage: `python script/folds.py train|evaluate [key=value ...]`. `train.sh` and `evaluate.sh` prepare the
environment and hand over to this; their --help says what users may rely on. Not in shell, because only here
do signals and exit codes pass between script and fold without loss. Imports the standard library and its
neighbour alone, so that it adds nothing to the time before the first fold.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# The folder of this file, where a script's imports are looked for first.
from launch import EXIT_USER_ERROR, JobRunner, RequestError, read_plan

ALL_FOLDS = ("0", "1", "2", "3", "4")
PREPARED_CHAOST2 = Path("data/CHAOST2/chaos_MR_T2_normalized")


@dataclass(frozen=True)
class Step:
    """What is done to every fold.

    That is the entry point, a word for it, and whether a summary ends it.
    """

    entry_point: str
    doing: str
    has_summary: bool


STEPS = {
    "train": Step("training.py", "training", has_summary=False),
    "evaluate": Step("validation.py", "evaluating", has_summary=True),
}


@dataclass(frozen=True)
class Request:
    """The command line, taken apart.

    Attributes:
        dataset: the dataset named by `dataset=` or by `path.<NAME>.<key>=`; None where none is.
        eval_fold: the value of `eval_fold=`; None where not given.
        reload_model_path: the whole word `reload_model_path=...`; None where not given.
        overrides: all other words, sacred's options included, in order.
    """

    dataset: str | None
    eval_fold: str | None
    reload_model_path: str | None
    overrides: tuple[str, ...]


def parse_request(words: list[str]) -> Request:
    """Take the command line apart; the last of several values counts, as for sacred.

    Raises:
        RequestError: `dataset=` or `eval_fold=` is empty, or only the paths of several datasets are given.
    """
    taken: dict[str, str] = {}
    overrides = []
    datasets_with_paths = set()
    for word in words:
        # Sacred strips the blanks around keys and values, and reads quoted values as literals.
        key, value = (part.strip() for part in word.partition("=")[::2])
        if word == "with":  # as in `python training.py with ...`; put in again for every fold
            continue
        if key in ("dataset", "eval_fold"):
            taken[key] = value.strip("\"'")
            if not taken[key]:
                raise RequestError(f"{key}= has no value (an unset variable?); give one or leave it out")
        elif key == "reload_model_path":
            taken[key] = word
        else:
            overrides.append(word)
            if match := re.fullmatch(r"path\.(\w+)\.[\w.]+", key):
                datasets_with_paths.add(match[1])
    if "dataset" not in taken and len(datasets_with_paths) > 1:
        names = ", ".join(sorted(datasets_with_paths))
        raise RequestError(f"paths of several datasets are given ({names}); add dataset=<NAME>")
    dataset = taken.get("dataset", next(iter(datasets_with_paths), None))
    return Request(dataset, taken.get("eval_fold"), taken.get("reload_model_path"), tuple(overrides))


def refuse_hidden_settings(request: Request) -> None:
    """Refuse a configuration file that sets what is set here for every fold.

    It would be lost unsaid.

    Raises:
        RequestError: a file among the words names `dataset` or `eval_fold`, and the command line does not.
    """
    for path in (Path(word) for word in request.overrides if "=" not in word):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for key in ("dataset", "eval_fold"):
            if getattr(request, key) is None and re.search(rf"\b{key}\b[\"']?\s*:", text):
                raise RequestError(f"{path} sets {key}; give it on the command line, too: {key}=<value>")


def choose_dataset_and_folds(request: Request) -> tuple[str, tuple[str, ...]]:
    """Settle what is run.

    Says so where PHANTOM stands in for a CHAOST2 that nobody named.
    """
    dataset, folds = request.dataset, ALL_FOLDS
    if dataset is None and any(PREPARED_CHAOST2.glob("image_*.nii.gz")):
        dataset = "CHAOST2"
    elif dataset is None:
        dataset, folds = "PHANTOM", ALL_FOLDS[:1]
        print(
            f"CHAOST2 is not prepared ({PREPARED_CHAOST2} holds no image_<id>.nii.gz).\n"
            "Using PHANTOM, synthetic scans made on the spot, fold 0 only unless eval_fold is given.\n"
            "For other data: dataset=<NAME> path.<NAME>.data_dir=<folder>.",
            flush=True,
        )
    return dataset, folds if request.eval_fold is None else (request.eval_fold,)


def run_step(
    runner: JobRunner, label: str, command: list[str], *, environments: Sequence[Mapping[str, str]]
) -> None:
    """Run one labelled command, as a process for each environment.

    Leaves the program with its exit code where it fails or is stopped.
    """
    print(f"== {label} ==", flush=True)
    code = runner.run([sys.executable, *command], environments)
    if runner.received:
        print(f"== {label}: stopped by {runner.received[0].name} ==", file=sys.stderr)
        sys.exit(code or 128 + runner.received[0])
    if code:
        print(f"== {label}: failed with exit code {code} ==", file=sys.stderr)
        sys.exit(code)


def run_folds(step: Step, words: list[str]) -> None:
    """Run a step on every fold that the command line asks for.

    Raises:
        RequestError: see `parse_request` and `read_plan`; or one snapshot is given for the evaluation of
            several folds.
    """
    request = parse_request(words)
    refuse_hidden_settings(request)
    dataset, folds = choose_dataset_and_folds(request)
    reload = [request.reload_model_path] if request.reload_model_path else []
    if reload and step.has_summary and len(folds) > 1:
        raise RequestError(f"{reload[0]}: a snapshot belongs to one fold; add eval_fold=<0 to 4>")

    plan, runner = read_plan(), JobRunner()
    for position, fold in enumerate(folds, start=1):
        place = f"eval_fold={fold}"
        if len(folds) > 1:
            place = f"fold {position} of {len(folds)} ({place})"
        command = [step.entry_point, "with", f"dataset={dataset}", f"eval_fold={fold}"]
        run_step(
            runner,
            f"{place}: {step.doing} {dataset}",
            [*command, *reload, *request.overrides],
            environments=plan.environments(position),
        )
    if step.has_summary and len(folds) > 1 and plan.machine == 0:
        command = [step.entry_point, "summarise", "with", f"dataset={dataset}", *request.overrides]
        run_step(runner, f"all folds: summary of {dataset}", command, environments=[{}])


def main() -> None:
    """Run the step named by the first word.

    The exit code is 2 for what the user has to mend.
    """
    os.environ["PYTHONUNBUFFERED"] = "1"  # a log file or a pipe shows every line at once
    try:
        run_folds(STEPS[sys.argv[1]], sys.argv[2:])
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
