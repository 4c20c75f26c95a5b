"""Train a trial's network, in one part or in two."""

import contextlib
import json
import shutil
import time
from typing import Any

from config_ssl_upload import Config
from util.config.settings import plain_values
from util.engine.runs import list_checkpoints, list_runs
from util.errors import NothingToDo
from util.io.files import write_text


class _HalfDone(Exception):
    """The first half of the steps is done, and its checkpoint is written."""


def train_trial(config: Config, first_half: Config | None = None) -> dict[str, Any]:
    """Train or resume; returns metrics, the data's fingerprint and seconds.

    The time of a resumed training is extrapolated from its last part.

    Args:
        config: of the training, which resumes its latest run.
        first_half: of the first half of the steps, if it is another.
    """
    import training  # late: other commands of the study need no network

    training_dir = config.fold_dir / "training"
    runs = list_runs(training_dir)
    for run in runs:
        if (run / "trained.json").is_file():  # interrupted during scoring
            return json.loads((run / "trained.json").read_text(encoding="utf-8"))
    resumed_steps = [int(path.stem.split("_")[1]) for run in runs for path in list_checkpoints(run)]
    n_done = max(resumed_steps, default=0)
    if first_half is not None and n_done < config.n_steps // 2:
        seconds = _train_first_half(first_half)
        result = train_trial(config, first_half)
        return result | {"train_seconds": round(seconds + result["train_seconds"] / 2, 1)}
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
        return train_trial(config, first_half)
    seconds = (time.perf_counter() - started) / (1 - n_done / config.n_steps)
    result = {"train_seconds": round(seconds, 1), "data": info["data_fingerprint"], "training": log}
    write_text(run_dir / "trained.json", json.dumps(result))
    return result


def _train_first_half(config: Config) -> float:
    """Train half of the steps, to go on from their checkpoint; returns the seconds."""
    import training

    def stop_after_half(name: str, value: float, step: int) -> None:
        if step > config.n_steps // 2:
            raise _HalfDone

    training_dir = config.fold_dir / "training"
    run_dir = training_dir / str(len(list_runs(training_dir)) + 1)
    write_text(run_dir / "config.json", json.dumps(plain_values(config)))
    started = time.perf_counter()
    with contextlib.suppress(_HalfDone):
        training.train(config, run_dir, log=stop_after_half, info={})
    return time.perf_counter() - started
