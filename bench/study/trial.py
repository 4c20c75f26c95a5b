"""Train and score one arm with one seed.

`python -m bench.study.trial phantom start 1` runs a single trial; bench/study/run.sh runs many. A finished
trial leaves one JSON record; an interrupted one resumes from its last checkpoint.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import describe_machine, describe_versions
from bench.study.arms import ARMS, PROFILES, REFERENCE, changes_of, make_config
from bench.study.scan_methods import score_scan_methods, score_start
from config_ssl_upload import REPOSITORY, Config
from util.config.command_line import run_guarded
from util.config.settings import plain_values
from util.engine.runs import list_checkpoints, list_runs
from util.errors import NothingToDo
from util.evaluation.method_names import SLICE_MEANINGS, TRAINED
from util.evaluation.metrics import VolumeScore
from util.evaluation.report import organ_means, overall_mean, select
from util.io.files import write_text
from util.io.json_files import write_json

FORMAT = 1  # of the records; a change invalidates all of them
BUILD_DIR = REPOSITORY / "build" / "study"
RECORDED = REPOSITORY / "bench" / "study" / "results"  # records under version control
# Test-time settings, scored without further training, for the arms that are candidates for a default.
TEST_TIME_ARMS = (REFERENCE, "strong")
TEST_TIME = {  # names are part of the records
    "3 support slices": {"support_slices": 3},
    "5 query copies": {"test_time_augmentation": 5},
    "3 support slices as shots": {"support_slices": 3, "join_support": "shots"},
    "clean-up": {"largest_component": True},
}

DiceTable = dict[str, Any]  # mean Dice, and Dice by organ


class Trial(NamedTuple):
    """One training with its scores."""

    profile: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.profile} {self.arm} {self.seed}"

    @property
    def key(self) -> str:
        """Digest of all values that profile, arm and recipe set.

        It identifies records of other settings. It covers neither defaults that none of them sets, nor code
        or data: after changes to those, use another results folder.
        """
        changes = changes_of(PROFILES[self.profile], ARMS[self.arm], self.seed)
        steps = PROFILES[self.profile].adaptation_steps
        return _digest(FORMAT, changes, self.test_time_settings, *([steps] if steps else []))

    @property
    def test_time_settings(self) -> Mapping[str, Mapping]:
        """Test-time settings to score; none where scores must not be used for selection."""
        is_scored = self.arm in TEST_TIME_ARMS and PROFILES[self.profile].for_selection
        return TEST_TIME if is_scored else {}

    @property
    def has_baselines(self) -> bool:
        """Whether untrained baselines are scored too, which one arm of a profile does."""
        arms = PROFILES[self.profile].named_arms()
        return self.arm == (REFERENCE if REFERENCE in arms else next(iter(arms)))

    def record_path(self, results: Path) -> Path:
        """Return the path of the record."""
        return results / self.profile / f"{self.arm}_{self.seed}.json"

    def config(self, options: argparse.Namespace) -> Config:
        """Return the configuration."""
        profile = PROFILES[self.profile]
        # The options' folders are those of real scans; synthetic ones keep their default.
        names = () if profile.dataset == "PHANTOM" else ("data_dir", "supervoxel_dir")
        folders = {name: value for name in names if (value := getattr(options, name))}
        # A separate folder for each combination of settings and data, removed when there is a record.
        work_dir = BUILD_DIR / "trainings" / f"{'_'.join(map(str, self))}_{_digest(self.key, folders)}"
        adaptation = {"steps": PROFILES[self.profile].adaptation_steps}
        overrides = {
            "adaptation": adaptation,
            "path": {profile.dataset: folders, "log_dir": str(work_dir)},
            "device": options.device,
            "resume": "latest",
        }
        return make_config(profile, ARMS[self.arm], self.seed, overrides=overrides)


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("seed", type=int)
    add_options(parser)
    options = parser.parse_args()
    arms = PROFILES[options.profile].named_arms()
    if options.arm not in arms:
        parser.error(f"{options.arm}: must be an arm of {options.profile}: {', '.join(arms)}")
    run_trial(Trial(options.profile, options.arm, options.seed), options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the study's commands that train."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--data-dir", help="folder of CHAOST2's volumes, if not the default")
    parser.add_argument("--supervoxel-dir", help="folder of CHAOST2's supervoxels, if not the default")
    add_results_option(parser)


def add_results_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folder of the records."""
    parser.add_argument(
        "--results",
        type=Path,
        default=BUILD_DIR / "results",
        help="folder of the records, with the page next to it; bench/study/results is under version control",
    )


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None if it is missing, damaged or of other settings."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        trial = Trial(record["profile"], record["arm"], record["seed"])
        is_current = trial.arm in PROFILES[trial.profile].named_arms() and record["key"] == trial.key
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if is_current else None


def run_trial(trial: Trial, options: argparse.Namespace) -> Path:
    """Train, score the snapshots and write the record; returns its path."""
    import torch

    profile, config = PROFILES[trial.profile], trial.config(options)
    n_threads = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else os.cpu_count() or 1
    record = {
        "key": trial.key,
        **trial._asdict(),
        "n_steps": config.n_steps,
        "batch_size": config.batch_size,
        "threads": n_threads,
        **_train(config),
        **(_score_methods(config, trial) if profile.adaptation_steps else _score(config, trial)),
        "machine": describe_machine(options.device),
        "versions": describe_versions(),
    }
    path = trial.record_path(options.results)
    write_json(path, record, indent=None)
    shutil.rmtree(config.path.log_dir)
    return path


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _train(config: Config) -> dict[str, Any]:
    """Train or resume; returns the logged values, the data's fingerprint and the time."""
    import training  # late: other commands of the study need no network

    training_dir = config.fold_dir / "training"
    runs = list_runs(training_dir)
    for run in runs:
        if (run / "trained.json").is_file():  # interrupted during scoring
            return json.loads((run / "trained.json").read_text(encoding="utf-8"))
    resumed_steps = [int(path.stem.split("_")[1]) for run in runs for path in list_checkpoints(run)]
    log: dict[str, dict[str, list[float]]] = {}
    info: dict[str, Any] = {}

    def append(name: str, value: float, step: int) -> None:
        metric = log.setdefault(name, {"steps": [], "values": []})
        metric["steps"].append(step)
        metric["values"].append(round(value, 6))

    run_dir = training_dir / str(len(runs) + 1)
    write_text(run_dir / "config.json", json.dumps(plain_values(config)))
    started = time.perf_counter()
    try:
        training.train(config, run_dir, log=append, info=info)
    except NothingToDo:  # killed after its last step, before its log was written
        shutil.rmtree(training_dir)
        return _train(config)
    # The time of a resumed training is extrapolated from its last part.
    share = 1 - max(resumed_steps, default=0) / config.n_steps
    seconds = (time.perf_counter() - started) / share
    result = {"train_seconds": round(seconds, 1), "data": info["data_fingerprint"], "training": log}
    write_text(run_dir / "trained.json", json.dumps(result))
    return result


def _score(config: Config, trial: Trial) -> dict[str, Any]:
    """Score the snapshots: all of them with one protocol, the last one with all."""
    snapshots = _list_snapshots(config)
    last = snapshots[max(snapshots)]
    curve = {str(step): _tabulate(_evaluate(config, snapshots[step])) for step in sorted(snapshots)}
    scores = _evaluate(config, last, all_slices=True, every_support=True, baselines=trial.has_baselines)
    chunks = select(scores, method=TRAINED, protocol="chunks")
    supports = sorted({score.support_id for score in chunks})
    record = {
        "curve": curve,
        **_tabulate_protocols(scores),
        "every_support": {str(i): round(overall_mean(select(chunks, support_id=i)), 4) for i in supports},
    }
    if trial.has_baselines:
        methods = dict.fromkeys(score.method for score in scores if score.method != TRAINED)
        record["baselines"] = {method: _tabulate(scores, method=method) for method in methods}
    if trial.test_time_settings:
        record["test_time"] = {
            name: _tabulate_protocols(_evaluate(config, last, all_slices=True, **settings))
            for name, settings in trial.test_time_settings.items()
        }
    return record


def _score_methods(config: Config, trial: Trial) -> dict[str, Any]:
    """Score the last snapshot alone, guided and adapted."""
    snapshots = _list_snapshots(config)
    profile = PROFILES[trial.profile]
    has_all_rows = profile.has_all_rows and profile.twin in (None, trial.arm)
    score = score_scan_methods if has_all_rows else score_start
    return score(config, snapshots[max(snapshots)])


def _list_snapshots(config: Config) -> dict[int, Path]:
    """Return the snapshots by step."""
    return {
        int(path.stem.split("_")[1]): path
        for run in list_runs(config.fold_dir / "training")
        for path in (run / "snapshots").glob("snapshot_*.pt")
    }


def _evaluate(config: Config, snapshot: Path, **settings: Any) -> list[VolumeScore]:
    """Evaluate a snapshot, by default with the protocol `chunks` and the main support only."""
    import validation

    switches = ("all_slices", "every_support", "baselines", "save_predictions", "report")
    minimal = {**dict.fromkeys(switches, False), "guide": "none", "unet_steps": 0, "unet_joins": False}
    evaluation = config.evaluation.model_copy(update={**minimal, **settings})
    changes = {"resume": None, "reload_model_path": str(snapshot), "evaluation": evaluation}
    return validation.evaluate(config.model_copy(update=changes), Path(config.path.log_dir) / "evaluation")


def _tabulate(scores: Sequence[VolumeScore], *, method: str = TRAINED, protocol: str = "chunks") -> DiceTable:
    """Return a method's Dice with the main support."""
    selected = select(scores, main_support=True, method=method, protocol=protocol)
    organs = {organ: round(mean, 4) for organ, mean in organ_means(selected).items()}
    return {"mean": round(overall_mean(selected), 4), "organs": organs}


def _tabulate_protocols(scores: Sequence[VolumeScore]) -> dict[str, DiceTable]:
    return {protocol: _tabulate(scores, protocol=protocol) for protocol in SLICE_MEANINGS}


if __name__ == "__main__":
    sys.exit(run_guarded(main))
