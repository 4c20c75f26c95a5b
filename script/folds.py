"""Run training.py or validation.py for each fold and organ group.

Usage: `python script/folds.py train|evaluate [key=value ...]`. `train.sh` and `evaluate.sh` prepare the
environment and execute this; their --help documents the behaviour. Python rather than shell, to forward
signals and exit codes reliably; standard library only, to start at once.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Found beside this file, whose folder comes first in sys.path.
from launch import EXIT_USER_ERROR, JobRunner, UsageError, read_launch_config

ALL_FOLDS = tuple(map(str, range(5)))  # as `util.evaluation.N_FOLDS`
ROOT = Path(__file__).resolve().parents[1]
CHAOST2_DIR = Path("data/CHAOST2")


@dataclass(frozen=True)
class Action:
    """What to run on every fold, its label, and whether a summary follows."""

    entry_point: str
    label: str
    has_summary: bool


ACTIONS = {
    "train": Action("training.py", "training", has_summary=False),
    "evaluate": Action("validation.py", "evaluating", has_summary=True),
}


@dataclass(frozen=True)
class CommandLine:
    """Parsed command line.

    Attributes:
        dataset: from `dataset=` or `path.<NAME>.<key>=`; None if neither is set.
        eval_fold, setting, organ_group: value of `eval_fold=` and so on; None if not set.
        reload_model_path: the whole argument `reload_model_path=...`; None if not set.
        overrides: all other arguments in order, including sacred's options.
    """

    dataset: str | None
    eval_fold: str | None
    reload_model_path: str | None
    overrides: tuple[str, ...]
    setting: str | None = None
    organ_group: str | None = None

    @property
    def has_several_groups(self) -> bool:
        """Whether each organ group is to be run in turn."""
        return self.setting == "2" and self.organ_group in (None, "None")

    def value_of(self, key: str) -> str | None:
        """Return the last value of a key among the overrides; None if not set."""
        pairs = (argument.partition("=")[::2] for argument in self.overrides if "=" in argument)
        values = [value.strip().strip("\"'") for name, value in pairs if name.strip() == key]
        return values[-1] if values else None


def parse_command_line(arguments: list[str]) -> CommandLine:
    """Parse the command line; as in sacred, the last value of a key counts.

    Raises:
        UsageError: `dataset=` or `eval_fold=` is empty, or several datasets have paths and none is selected.
    """
    values: dict[str, str] = {}
    overrides = []
    datasets_with_paths = set()
    for argument in arguments:
        # Like sacred: strip blanks around keys and values, and quotes around values.
        key, value = (part.strip() for part in argument.partition("=")[::2])
        if argument == "with":  # as in `python training.py with ...`; every fold's command has its own
            continue
        if key in ("dataset", "eval_fold"):
            values[key] = value.strip("\"'")
            if not values[key]:
                raise UsageError(f"{key}= has no value (an unset variable?); set it or omit the key")
        elif key == "reload_model_path":
            values[key] = argument
        else:
            overrides.append(argument)
            if key in ("setting", "organ_group"):
                values[key] = value.strip("\"'")
            if match := re.fullmatch(r"path\.(\w+)\.[\w.]+", key):
                datasets_with_paths.add(match[1])
    if "dataset" not in values and len(datasets_with_paths) > 1:
        names = ", ".join(sorted(datasets_with_paths))
        raise UsageError(f"paths of several datasets are set ({names}); add dataset=<NAME>")
    dataset = values.get("dataset", next(iter(datasets_with_paths), None))
    run_values = {
        name: values.get(name) for name in ("eval_fold", "reload_model_path", "setting", "organ_group")
    }
    return CommandLine(dataset, overrides=tuple(overrides), **run_values)


def check_config_files(command_line: CommandLine) -> None:
    """Refuse configuration files whose choice of runs would be silently overridden.

    Raises:
        UsageError: a file sets `dataset`, `eval_fold`, `setting` or `organ_group`, and the command line does
            not.
    """
    for path in (Path(argument) for argument in command_line.overrides if "=" not in argument):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for key in ("dataset", "eval_fold", "setting", "organ_group"):
            if getattr(command_line, key) is None and re.search(rf"\b{key}\b[\"']?\s*:", text):
                raise UsageError(f"{path} sets {key}; set it on the command line, too: {key}=<value>")


def select_dataset_and_folds(command_line: CommandLine) -> tuple[str, tuple[str, ...]]:
    """Select what to run: PHANTOM if no dataset is set and CHAOST2 is not prepared."""
    dataset, folds = command_line.dataset, ALL_FOLDS
    if dataset is None and any(CHAOST2_DIR.glob("*/image_*.nii.gz")):
        dataset = "CHAOST2"
    elif dataset is None:
        dataset, folds = "PHANTOM", ALL_FOLDS[:1]
        print(
            f"CHAOST2 is not prepared ({CHAOST2_DIR} contains no volumes image_<id>.nii.gz).\n"
            "Using PHANTOM (synthetic scans, generated now), fold 0 unless eval_fold is set.\n"
            "For other data: dataset=<NAME> path.<NAME>.data_dir=<folder>.",
            flush=True,
        )
    return dataset, folds if command_line.eval_fold is None else (command_line.eval_fold,)


def list_organ_groups(command_line: CommandLine, dataset: str) -> list[str | None]:
    """List the organ groups to run; [None] if the command line has settled them.

    Exits with the code of the look-up if it fails, which prints why.
    """
    if not command_line.has_several_groups:
        return [None]
    own_paths = [command_line.value_of(f"path.{name}.data_dir") for name in (dataset, "OWN")]
    data_dir = next(filter(None, own_paths), f"data/{dataset}")
    command = [sys.executable, "-m", "data.organ_groups", dataset, data_dir]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        sys.exit(result.returncode)
    return list(map(str, range(int(result.stdout.split()[-1]))))


def run_labelled(
    runner: JobRunner, label: str, command: list[str], *, environments: Sequence[Mapping[str, str]]
) -> None:
    """Run a command once per environment; exit with its code if it fails."""
    print(f"== {label} ==", flush=True)
    code = runner.run([sys.executable, *command], environments)
    if runner.received:
        print(f"== {label}: stopped by {runner.received[0].name} ==", file=sys.stderr)
        sys.exit(code or 128 + runner.received[0])
    if code:
        print(f"== {label}: failed with exit code {code} ==", file=sys.stderr)
        sys.exit(code)


def run_folds(action: Action, arguments: list[str]) -> None:
    """Run an action on the requested folds and organ groups.

    Raises:
        UsageError: see `parse_command_line`, `check_config_files` and `read_launch_config`; or several folds
            or groups are to be evaluated with one snapshot.
    """
    command_line = parse_command_line(arguments)
    check_config_files(command_line)
    dataset, folds = select_dataset_and_folds(command_line)
    reload = [command_line.reload_model_path] if command_line.reload_model_path else []
    is_one_file = reload not in ([], ["reload_model_path=best"])
    if is_one_file and action.has_summary and len(folds) > 1:
        raise UsageError(f"{reload[0]}: a snapshot belongs to one fold; add eval_fold=<0 to 4>")
    if is_one_file and action.has_summary and command_line.has_several_groups:
        raise UsageError(f"{reload[0]}: a snapshot belongs to one organ group; add organ_group=<number>")

    launch_config, runner = read_launch_config(), JobRunner()
    groups = list_organ_groups(command_line, dataset)
    jobs = [(group, fold) for group in groups for fold in folds]
    for position, (group, fold) in enumerate(jobs, start=1):
        selection = [f"eval_fold={fold}", *([] if group is None else [f"organ_group={group}"])]
        command = [find_program(action.entry_point), "with", f"dataset={dataset}", *selection]
        overrides = command_line.overrides
        if group is not None:  # an explicit None among them would win
            overrides = [word for word in overrides if word.partition("=")[0].strip() != "organ_group"]
        run_labelled(
            runner,
            f"{_label(position, len(jobs), selection)}: {action.label} {dataset}",
            [*command, *reload, *overrides],
            environments=launch_config.environments(position),
        )
    if action.has_summary and len(jobs) > 1 and launch_config.node_rank == 0:
        command = [
            find_program(action.entry_point),
            "summarise",
            "with",
            f"dataset={dataset}",
            *command_line.overrides,
        ]
        what = "all folds" if len(groups) == 1 else "all organ groups"
        run_labelled(runner, f"{what}: summary of {dataset}", command, environments=[{}])


def find_program(name: str) -> str:
    """Return the path of an entry point, which an installed package has elsewhere."""
    return name if Path.cwd() == ROOT else str(ROOT / name)


def _label(position: int, n_jobs: int, selection: Sequence[str]) -> str:
    noun = "fold" if len(selection) == 1 else "training"
    words = " ".join(selection)
    return words if n_jobs == 1 else f"{noun} {position} of {n_jobs} ({words})"


def main() -> None:
    """Run the action named by the first argument; exit code 2 for user errors."""
    os.environ["PYTHONUNBUFFERED"] = "1"  # write every line to log files and pipes at once
    try:
        run_folds(ACTIONS[sys.argv[1]], sys.argv[2:])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
