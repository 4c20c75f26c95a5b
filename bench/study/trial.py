"""Train and score one arm with one seed.

`python -m bench.study.trial phantom start 1` does so alone; bench/study/run.sh starts many. A trial leaves
one JSON file when it is finished, and nothing before.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.machine import describe_machine, describe_versions
from bench.study.arms import ARMS, PROFILES, START, arms_of, changes_of, make_config
from config_ssl_upload import REPOSITORY, Config
from util.files import write_text

FORMAT = 1  # of the records; another one makes all trials anew
RESULTS_DIR = REPOSITORY / "bench" / "study" / "results"
# These are scored without training again, for the arms that such choices could be added to.
TEST_TIME_ARMS = (START, "strong")
TEST_TIME = {
    "3 support slices": {"support_slices": 3},
    "5 query copies": {"query_copies": 5},
    "3 support slices as shots": {"support_slices": 3, "join_support": "shots"},
    "clean-up": {"clean_up": True},
}


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("seed", type=int)
    add_options(parser)
    options = parser.parse_args()
    run_trial(options.profile, options.arm, options.seed, options=options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what all of the study's commands take."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--data-dir", help="folder of the prepared volumes, where it is not the usual one")
    parser.add_argument("--supervoxel-dir", help="folder of the supervoxels, where it is another one")


def config_of(profile: str, arm: str, seed: int, *, options: argparse.Namespace) -> Config:
    """Return the configuration of a trial."""
    chosen = PROFILES[profile]
    places = {"data_dir": options.data_dir, "supervoxel_dir": options.supervoxel_dir}
    paths = {chosen.dataset: {name: value for name, value in places.items() if value}}
    return make_config(chosen, ARMS[arm], seed, more={"path": paths, "device": options.device})


def result_path(profile: str, arm: str, seed: int) -> Path:
    """Name the file of a trial's record."""
    return RESULTS_DIR / profile / f"{arm}_{seed}.json"


def key_of(profile: str, arm: str, seed: int) -> str:
    """Return a digest of what a trial's figures depend on.

    A record that carries another one is of other settings.
    """
    extras = _test_time_choices(profile, arm)
    text = json.dumps([FORMAT, changes_of(PROFILES[profile], ARMS[arm], seed), extras], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_done(profile: str, arm: str, seed: int) -> bool:
    """Say whether a trial's record is there and was made with the present settings."""
    path = result_path(profile, arm, seed)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return found == key_of(profile, arm, seed)


def run_trial(profile: str, arm: str, seed: int, *, options: argparse.Namespace) -> Path:
    """Train, score each part of the training, and write the record; returns its path."""
    import training  # late: the study's commands ask for much that needs no network

    config = config_of(profile, arm, seed, options=options)
    log: dict[str, dict[str, list[float]]] = {}

    def keep(name: str, value: float, step: int) -> None:
        of_metric = log.setdefault(name, {"steps": [], "values": []})
        of_metric["steps"].append(step)
        of_metric["values"].append(round(value, 6))

    with tempfile.TemporaryDirectory(prefix="hcpmnet-study-") as folder:
        started = time.perf_counter()
        training.train(config, Path(folder), log=keep, info={})
        seconds = time.perf_counter() - started
        record = {
            "key": key_of(profile, arm, seed),
            "profile": profile,
            "arm": arm,
            "seed": seed,
            "n_steps": config.n_steps,
            "batch_size": config.batch_size,
            "train_seconds": round(seconds, 1),
            "threads": _n_threads(),
            "training": log,
            **_score(config, Path(folder), *_extras(profile, arm)),
            "machine": describe_machine(options.device),
            "versions": describe_versions(),
        }
    path = result_path(profile, arm, seed)
    write_text(path, json.dumps(record) + "\n")
    return path


def _score(
    config: Config, run_dir: Path, choices_of_test_time: Mapping[str, Mapping], with_baselines: bool
) -> dict[str, Any]:
    """Score the snapshots of a training: all of them briefly, the last one fully."""
    import validation
    from util.report import TRAINED, organ_means, overall_mean, select

    def scores_of(snapshot: Path, **choices: Any) -> list:
        plain = {"all_slices": False, "every_support": False, "baselines": False, "save_predictions": False}
        asked = replace(
            config,
            reload_model_path=str(snapshot),
            evaluation=replace(config.evaluation, **{**plain, **choices}),
        )
        return validation.evaluate(asked, run_dir / "evaluation")

    def table(scores: Sequence, **wanted: Any) -> dict[str, Any]:
        chosen = select(scores, main_support=True, **wanted)
        organs = {organ: round(mean, 4) for organ, mean in organ_means(chosen).items()}
        return {"mean": round(overall_mean(chosen), 4), "organs": organs}

    snapshots = sorted((run_dir / "snapshots").iterdir())
    curve = {
        str(int(path.stem.split("_")[1])): table(scores_of(path), method=TRAINED, protocol="chunks")
        for path in snapshots
    }
    last = snapshots[-1]
    final = scores_of(last, all_slices=True, every_support=True, baselines=with_baselines)
    found = {
        "curve": curve,
        "chunks": table(final, method=TRAINED, protocol="chunks"),
        "all_slices": table(final, method=TRAINED, protocol="all_slices"),
        "every_support": _by_support(select(final, method=TRAINED, protocol="chunks")),
    }
    if with_baselines:
        methods = dict.fromkeys(score.method for score in final if score.method != TRAINED)
        found["baselines"] = {name: table(final, method=name, protocol="chunks") for name in methods}
    if choices_of_test_time:
        found["test_time"] = {
            name: _protocols(scores_of(last, all_slices=True, **choices), table)
            for name, choices in choices_of_test_time.items()
        }
    return found


def _test_time_choices(profile: str, arm: str) -> Mapping[str, Mapping]:
    """Return what is tried without training again; nothing on data that no choice may be made by."""
    return TEST_TIME if arm in TEST_TIME_ARMS and PROFILES[profile].chooses else {}


def _extras(profile: str, arm: str) -> tuple[Mapping[str, Mapping], bool]:
    """Return the choices of test time to try, and whether to score what is not trained: once a profile."""
    arms = arms_of(PROFILES[profile])
    return _test_time_choices(profile, arm), arm == (START if START in arms else next(iter(arms)))


def _protocols(scores: Sequence, table: Any) -> Mapping[str, Any]:
    return {protocol: table(scores, protocol=protocol) for protocol in ("chunks", "all_slices")}


def _by_support(scores: Sequence) -> dict[str, float]:
    """Return each support's mean Dice: what it takes to say how much hangs on the support."""
    from util.report import overall_mean, select

    supports = sorted({score.support_id for score in scores})
    return {str(scan): round(overall_mean(select(scores, support_id=scan)), 4) for scan in supports}


def _n_threads() -> int:
    import torch

    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else os.cpu_count() or 1


if __name__ == "__main__":
    main()
