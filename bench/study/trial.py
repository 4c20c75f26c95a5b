"""Train and score one arm with one seed.

`python -m bench.study.trial phantom start 1` does so alone; bench/study/run.sh starts many. A trial leaves
one JSON file when it is finished; one that was stopped goes on from its last checkpoint.
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
from typing import Any

from bench.machine import describe_machine, describe_versions
from bench.study.arms import ARMS, PROFILES, START, arms_of, changes_of, make_config
from config_ssl_upload import REPOSITORY, Config
from util.config.command_line import run_guarded
from util.config.settings import plain_values
from util.engine.runs import list_checkpoints, list_runs
from util.errors import NothingToDo
from util.io.files import write_text

FORMAT = 1  # of the records; another one makes all trials anew
BUILD_DIR = REPOSITORY / "build" / "study"
RECORDED = REPOSITORY / "bench" / "study" / "results"  # what the repository keeps
# These are scored without training again, for the arms that such choices could be added to.
TEST_TIME_ARMS = (START, "strong")
TEST_TIME = {
    "3 support slices": {"support_slices": 3},
    "5 query copies": {"test_time_augmentation": 5},
    "3 support slices as shots": {"support_slices": 3, "join_support": "shots"},
    "clean-up": {"largest_component": True},
}

Table = dict[str, Any]


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("seed", type=int)
    add_options(parser)
    options = parser.parse_args()
    if options.arm not in arms_of(PROFILES[options.profile]):
        parser.error(f"{options.arm}: {options.profile} has {', '.join(arms_of(PROFILES[options.profile]))}")
    run_trial(options.profile, options.arm, options.seed, options=options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what all of the study's commands take."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--data-dir", help="folder of CHAOST2's volumes, where it is not the usual one")
    parser.add_argument("--supervoxel-dir", help="folder of CHAOST2's supervoxels, where it is another one")
    add_results_option(parser)


def add_results_option(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the records."""
    parser.add_argument(
        "--results",
        type=Path,
        default=BUILD_DIR / "results",
        help="folder of the records; the page is written beside it; bench/study/results holds the kept ones",
    )


def config_of(profile: str, arm: str, seed: int, *, options: argparse.Namespace) -> Config:
    """Return the configuration of a trial."""
    chosen = PROFILES[profile]
    places = {"data_dir": options.data_dir, "supervoxel_dir": options.supervoxel_dir}
    # Synthetic scans keep their usual place: these folders are those of real ones.
    given = {} if chosen.dataset == "PHANTOM" else {name: value for name, value in places.items() if value}
    # Of its own for other settings and other data; kept until there is a record.
    digest = _digest(key_of(profile, arm, seed), given)
    work_dir = BUILD_DIR / "trainings" / f"{profile}_{arm}_{seed}_{digest}"
    more = {
        "path": {chosen.dataset: given, "log_dir": str(work_dir)},
        "device": options.device,
        "resume": "latest",
    }
    return make_config(chosen, ARMS[arm], seed, more=more)


def result_path(results: Path, profile: str, arm: str, seed: int) -> Path:
    """Name the file of a trial's record."""
    return results / profile / f"{arm}_{seed}.json"


def key_of(profile: str, arm: str, seed: int) -> str:
    """Return a digest of all that profile, arm and recipe set.

    A record that carries another one is of other settings. Defaults that none of them sets, code and data are
    not part of it: after a change to those, take another folder of results.
    """
    return _digest(FORMAT, changes_of(PROFILES[profile], ARMS[arm], seed), _test_time_choices(profile, arm))


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record.

    None where it is missing, damaged, or was made with other settings.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        profile, arm, seed = record["profile"], record["arm"], record["seed"]
        if arm not in arms_of(PROFILES[profile]) or record["key"] != key_of(profile, arm, seed):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record


def run_trial(profile: str, arm: str, seed: int, *, options: argparse.Namespace) -> Path:
    """Train, score each part of the training, and write the record; returns its path."""
    config = config_of(profile, arm, seed, options=options)
    record = {
        "key": key_of(profile, arm, seed),
        "profile": profile,
        "arm": arm,
        "seed": seed,
        "n_steps": config.n_steps,
        "batch_size": config.batch_size,
        "threads": _n_threads(),
        **_train(config),
        **_score(config, choices=_test_time_choices(profile, arm), baselines=_has_baselines(profile, arm)),
        "machine": describe_machine(options.device),
        "versions": describe_versions(),
    }
    path = result_path(options.results, profile, arm, seed)
    write_text(path, json.dumps(record) + "\n")
    shutil.rmtree(config.path.log_dir)
    return path


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _train(config: Config) -> Table:
    """Train, or go on with a training that was stopped; returns what it logged, its data and its time."""
    import training  # late: the study's commands ask for much that needs no network

    training_dir = config.fold_dir / "training"
    runs = list_runs(training_dir)
    for run in runs:
        if (run / "trained.json").is_file():  # it was stopped while it was scored
            return json.loads((run / "trained.json").read_text(encoding="utf-8"))
    steps_before = [int(path.stem.split("_")[1]) for run in runs for path in list_checkpoints(run)]
    log: dict[str, dict[str, list[float]]] = {}
    info: dict[str, Any] = {}

    def keep(name: str, value: float, step: int) -> None:
        of_metric = log.setdefault(name, {"steps": [], "values": []})
        of_metric["steps"].append(step)
        of_metric["values"].append(round(value, 6))

    run_dir = training_dir / str(len(runs) + 1)
    write_text(run_dir / "config.json", json.dumps(plain_values(config)))
    started = time.perf_counter()
    try:
        training.train(config, run_dir, log=keep, info=info)
    except NothingToDo:  # it was killed after its last step, before what it logged was written
        shutil.rmtree(training_dir)
        return _train(config)
    # One that went on is taken to have had the pace of its last part all along.
    share = 1 - max(steps_before, default=0) / config.n_steps
    seconds = (time.perf_counter() - started) / share
    found = {"train_seconds": round(seconds, 1), "data": info["data_fingerprint"], "training": log}
    write_text(run_dir / "trained.json", json.dumps(found))
    return found


def _score(config: Config, *, choices: Mapping[str, Mapping], baselines: bool) -> Table:
    """Score a training's snapshots: all of them briefly, the last one fully.

    Args:
        config: of the training.
        choices: of test time, to be tried on the last one.
        baselines: whether to score what is not trained.
    """
    training_dir = config.fold_dir / "training"
    found = {
        int(path.stem.split("_")[1]): path
        for run in list_runs(training_dir)
        for path in (run / "snapshots").glob("snapshot_*.pt")
    }
    *_, last = snapshots = [found[step] for step in sorted(found)]
    curve = {
        str(step): _tabulate(_evaluate(config, path), protocol="chunks")
        for step, path in zip(sorted(found), snapshots, strict=True)
    }
    scores = _evaluate(config, last, all_slices=True, every_support=True, baselines=baselines)
    record = {"curve": curve, **_tabulate_protocols(scores), "every_support": _tabulate_supports(scores)}
    if baselines:
        record["baselines"] = _tabulate_baselines(scores)
    if choices:
        record["test_time"] = {
            name: _tabulate_protocols(_evaluate(config, last, all_slices=True, **changes))
            for name, changes in choices.items()
        }
    return record


def _evaluate(config: Config, snapshot: Path, **choices: Any) -> list:
    """Evaluate a snapshot, with `chunks` alone where nothing else is asked for; returns the scores."""
    import validation

    plain = {"all_slices": False, "every_support": False, "baselines": False, "save_predictions": False}
    evaluation = config.evaluation.model_copy(update={**plain, **choices})
    changes = {"resume": None, "reload_model_path": str(snapshot), "evaluation": evaluation}
    return validation.evaluate(config.model_copy(update=changes), Path(config.path.log_dir) / "evaluation")


def _tabulate(scores: Sequence, *, method: str | None = None, **wanted: Any) -> Table:
    """Return a method's mean Dice and that of each organ, with the main support."""
    from util.evaluation.report import TRAINED, organ_means, overall_mean, select

    chosen = select(scores, main_support=True, method=method or TRAINED, **wanted)
    organs = {organ: round(mean, 4) for organ, mean in organ_means(chosen).items()}
    return {"mean": round(overall_mean(chosen), 4), "organs": organs}


def _tabulate_protocols(scores: Sequence) -> dict[str, Table]:
    return {protocol: _tabulate(scores, protocol=protocol) for protocol in ("chunks", "all_slices")}


def _tabulate_baselines(scores: Sequence) -> dict[str, Table]:
    from util.evaluation.report import TRAINED

    methods = dict.fromkeys(score.method for score in scores if score.method != TRAINED)
    return {method: _tabulate(scores, method=method, protocol="chunks") for method in methods}


def _tabulate_supports(scores: Sequence) -> dict[str, float]:
    """Return each support's mean Dice: what it takes to say how much hangs on the support."""
    from util.evaluation.report import TRAINED, overall_mean, select

    chosen = select(scores, method=TRAINED, protocol="chunks")
    supports = sorted({score.support_id for score in chosen})
    return {str(scan): round(overall_mean(select(chosen, support_id=scan)), 4) for scan in supports}


def _test_time_choices(profile: str, arm: str) -> Mapping[str, Mapping]:
    """Return what is tried without training again; nothing on data that no choice may be made by."""
    return TEST_TIME if arm in TEST_TIME_ARMS and PROFILES[profile].chooses else {}


def _has_baselines(profile: str, arm: str) -> bool:
    """Say whether a trial scores what is not trained: those of one arm do."""
    arms = arms_of(PROFILES[profile])
    return arm == (START if START in arms else next(iter(arms)))


def _n_threads() -> int:
    import torch

    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(run_guarded(main))
