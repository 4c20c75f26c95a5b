"""Train a fold for some minutes and evaluate it: rates, memory and Dice.

python -m bench.fold [--quick] [--device cuda] [--minutes 8] [key=value ...]

Trains on CHAOST2 if it is prepared, otherwise on PHANTOM. Further words are configuration keys of both
programs.
"""

import re
import subprocess
import sys

from bench import formatting
from bench.measuring import ROOT
from bench.sections import Section, Table, benchmark_parser, write_section
from config_ssl_upload import dataset_defaults, parse_config
from util.engine.runs import list_runs
from util.errors import UserError
from util.evaluation.method_names import TRAINED
from util.evaluation.report import organ_means, overall_mean, select
from util.evaluation.score_files import read_scores

PROBE_STEPS = 40
RATE = re.compile(r"trained (\d+) steps in .*\((\S+) s a step\), peak memory (\S+) GB")
SLICE_RATE = re.compile(rf"{TRAINED}: (\d+) slices, (\S+) s a slice")
EVALUATED = re.compile(r"evaluated in (\S+) s, peak memory (\S+) GB")


def main() -> None:
    """Train, evaluate, and write the section."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="duration of the training")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration keys")
    options = parser.parse_args()
    minutes = 0.5 if options.quick else options.minutes
    is_prepared = parse_config(dataset_defaults("CHAOST2")).layout.volumes_dir.is_dir()
    log_dir = ROOT / "build" / "bench" / "fold"
    words = {"dataset": "CHAOST2" if is_prepared else "PHANTOM", "eval_fold": "0", "precision": "auto"}
    words |= {"recipe": "strong", "device": options.device, "path.log_dir": str(log_dir)}
    words |= dict(word.split("=", 1) for word in options.overrides)
    *_, seconds, _ = _run(RATE, "training.py", {**words, "n_steps": str(PROBE_STEPS)})
    n_steps = max(PROBE_STEPS, int(60 * minutes / float(seconds)))
    n_steps, step_s, train_gb = _run(RATE, "training.py", {**words, "n_steps": str(n_steps)})
    fold_dir = log_dir / words["dataset"] / "fold_0"
    words |= {"reload_model_path": str(list_runs(fold_dir / "training")[0])}
    (n_slices, slice_s), (evaluation_s, evaluation_gb) = _run_all(
        (SLICE_RATE, EVALUATED), "validation.py", words
    )
    scores = read_scores(list_runs(fold_dir / "evaluation")[0] / "scores.json")
    section = Section(
        title=f"A training of {words['dataset']}",
        intro=(
            f"Fold 0, one seed, as many steps as fit into {minutes:g} minutes, then its evaluation: "
            + " ".join(f"`{name}={value}`" for name, value in words.items() if "path" not in name)
        ),
        tables=[
            Table(
                "Rates",
                ["what", "number", "time of each", "peak memory"],
                [
                    ["training steps", n_steps, _duration(step_s), f"{train_gb} GB"],
                    ["segmented slices", n_slices, _duration(slice_s), f"{evaluation_gb} GB"],
                    ["evaluation", "1", _duration(evaluation_s), f"{evaluation_gb} GB"],
                ],
            ),
            _dice_table(scores),
        ],
    )
    write_section("fold", section, device=options.device, quick=options.quick)


def _run(pattern: re.Pattern, program: str, words: dict[str, str]) -> tuple[str, ...]:
    return _run_all((pattern,), program, words)[0]


def _run_all(patterns: tuple[re.Pattern, ...], program: str, words: dict[str, str]) -> list[tuple[str, ...]]:
    """Run a program, and return the groups that each pattern finds in its output."""
    command = [sys.executable, program, "with", *(f"{name}={value}" for name, value in words.items())]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(process.stdout, flush=True)
    matches = [pattern.search(process.stdout) for pattern in patterns]
    if process.returncode or None in matches:
        raise UserError(f"{program} ended with exit code {process.returncode}, see above")
    return [match.groups() for match in matches]


def _duration(seconds: str) -> str:
    return formatting.duration(float(seconds))


def _dice_table(scores: list) -> Table:
    trained = select(scores, method=TRAINED, main_support=True)
    rows = []
    for protocol in dict.fromkeys(score.protocol for score in trained):
        selected = select(trained, protocol=protocol)
        means = organ_means(selected)
        rows.append([protocol, *(f"{mean:.3f}" for mean in means.values()), f"{overall_mean(selected):.3f}"])
    return Table("Dice", ["slices", *means, "mean"], rows)


if __name__ == "__main__":
    main()
