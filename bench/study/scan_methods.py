"""Score all that one annotated scan gives: registration, adaptation, shots."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from config_ssl_upload import Config
from script.workflows.evaluation_methods import make_untrained
from util.engine.snapshots import current_versions, load_snapshot, save_snapshot
from util.evaluation.intensity_refinement import RECOMMENDED_WEIGHT
from util.evaluation.method_names import (
    ADAPTED,
    COPIED_MASK,
    COSINE,
    REGISTRATION,
    SLICE_MEANINGS,
    TRAINED,
    UNET,
    UNTRAINED,
    guided,
    joined,
    refined,
)
from util.evaluation.metrics import VolumeScore
from util.evaluation.report import organ_means, overall_mean, select

PROTOCOLS = tuple(SLICE_MEANINGS)
SHOTS = {"support_slices": 3, "join_support": "shots"}
# Rows of the page: name in the records -> label. The first is what the others are compared with.
NETWORK, ALL = "network", "adapted, registration, 3 shots"
LABELS = {
    UNTRAINED: "untrained network",
    COSINE: "untrained encoder, cosine matching",
    COPIED_MASK: "copied support mask",
    UNET: "U-Net, trained on the support scan alone",
    f"{UNET}, registration": "U-Net + registration",
    f"{UNET}, registration, intensities": "U-Net + registration + intensities",
    REGISTRATION: "registration alone",
    NETWORK: "trained on supervoxels (`strong`)",
    "3 shots": "trained, 3 support slices as shots",
    f"{REGISTRATION}, intensities": "registration + intensities",
    "registration guides": "trained + registration",
    "registration guides, intensities": "trained + registration + intensities",
    "adapted": "trained, then adapted",
    "adapted, 3 shots": "trained, then adapted, 3 shots",
    "adapted, registration": "trained, then adapted + registration",
    "adapted, registration, intensities": "trained, then adapted + registration + intensities",
    ALL: "trained, then adapted + registration, 3 shots",
    f"{ALL}, intensities": "trained, then adapted + registration + intensities, 3 shots",
    "U-Net joins": "trained + U-Net + registration",
    "adapted, U-Net joins": "trained, then adapted + U-Net + registration",
    "only adapted, U-Net joins": "adapted without training + U-Net + registration",
    "U-Net joins, intensities": "trained + U-Net + registration + intensities",
    "adapted, U-Net joins, intensities": "trained, then adapted + U-Net + registration + intensities",
    "only adapted, U-Net joins, intensities": (
        "adapted without training + U-Net + registration + intensities"
    ),
    "only adapted": "adapted without training",
    "only adapted, registration": "adapted without training + registration",
    "only adapted, registration, intensities": "adapted without training + registration + intensities",
}

# Rows that have a second one, refined by intensities, and methods without training.
REFINED = (
    "registration guides",
    "adapted, registration",
    f"{UNET}, registration",
    REGISTRATION,
    ALL,
    "only adapted, registration",
    "U-Net joins",
    "adapted, U-Net joins",
    "only adapted, U-Net joins",
)
BASELINES = (UNTRAINED, COSINE, COPIED_MASK)
# Rows by which trainings are compared.
START_ROWS = (
    NETWORK,
    "adapted",
    "registration guides, intensities",
    "U-Net joins, intensities",
    "adapted, U-Net joins, intensities",
)


def score_scan_methods(config: Config, snapshot: Path) -> dict[str, Any]:
    """Score a network alone, guided and adapted, and an untrained one adapted.

    Args:
        config: of the trial; `adaptation.steps` counts only where a row says "adapted".
        snapshot: of the trained network, to adapt it or to use it as it is.

    Returns:
        `methods`: row -> protocol -> mean Dice, Dice by organ, and Dice by query and organ; and
        `method_seconds`: row -> seconds per query scan, both protocols and everything before included, but
        missing where an interrupted run had computed a part already.
    """
    is_fresh = not (Path(config.path.log_dir) / config.dataset / "adapted").exists()
    untrained = _write_untrained(config, snapshot)
    trained, s_trained = _evaluate(config, snapshot)
    by_registration, s_registration = _evaluate(config, snapshot, guide="registration")
    adapted, s_adapted = _evaluate(config, snapshot, adapted=True)
    steps = config.adaptation.steps
    both, _ = _evaluate(
        config, snapshot, guide="registration", adapted=True, baselines=True, unet_steps=steps
    )
    baselines, _ = _evaluate(config, snapshot, baselines=True, chunks=False)
    shots, _ = _evaluate(config, snapshot, guide="registration", adapted=True, **SHOTS)
    only, _ = _evaluate(config, untrained, guide="registration", adapted=True)
    rows = {
        NETWORK: (trained, TRAINED),
        "registration guides": (by_registration, guided(TRAINED)),
        "adapted": (adapted, ADAPTED),
        "adapted, registration": (both, guided(ADAPTED)),
        REGISTRATION: (both, REGISTRATION),
        UNET: (both, UNET),
        f"{UNET}, registration": (both, guided(UNET)),
        "3 shots": (shots, TRAINED),
        "adapted, 3 shots": (shots, ADAPTED),
        ALL: (shots, guided(ADAPTED)),
        "only adapted": (only, ADAPTED),
        "only adapted, registration": (only, guided(ADAPTED)),
        **_score_with_unet(config, snapshot, untrained),
    }
    rows |= {f"{name}, intensities": (rows[name][0], refined(rows[name][1])) for name in REFINED}
    rows |= {name: ([*both, *baselines], name) for name in BASELINES}
    seconds = {
        NETWORK: s_trained,
        "registration guides": s_registration,
        "adapted": s_adapted - s_trained,  # which scores the trained network too
    }
    n_queries = len({score.query_id for score in trained})
    return {
        "methods": {name: _tabulate(scores, method) for name, (scores, method) in rows.items()},
        "method_seconds": {name: round(s / n_queries, 1) for name, s in seconds.items()} if is_fresh else {},
    }


def score_start(config: Config, snapshot: Path) -> dict[str, Any]:
    """Score a network by `START_ROWS`.

    Arguments and result are those of `score_scan_methods`, without the seconds.
    """
    by_registration, _ = _evaluate(config, snapshot, guide="registration")
    with_unet, _ = _evaluate(
        config,
        snapshot,
        guide="registration",
        adapted=True,
        unet_steps=config.adaptation.steps,
        unet_joins=True,
    )
    methods = (
        (by_registration, TRAINED),
        (with_unet, ADAPTED),
        (by_registration, refined(guided(TRAINED))),
        (with_unet, refined(guided(joined(TRAINED)))),
        (with_unet, refined(guided(joined(ADAPTED)))),
    )
    rows = {name: _tabulate(*method) for name, method in zip(START_ROWS, methods, strict=True)}
    return {"methods": rows, "method_seconds": {}}


def _score_with_unet(
    config: Config, snapshot: Path, untrained: Path
) -> dict[str, tuple[list[VolumeScore], str]]:
    """Return the rows of networks that a U-Net joins: scores and the method that counts."""
    options = {"unet_steps": config.adaptation.steps, "unet_joins": True}
    trained, only = (
        _evaluate(config, path, guide="registration", adapted=True, **options)[0]
        for path in (snapshot, untrained)
    )
    return {
        "U-Net joins": (trained, guided(joined(TRAINED))),
        "adapted, U-Net joins": (trained, guided(joined(ADAPTED))),
        "only adapted, U-Net joins": (only, guided(joined(ADAPTED))),
    }


def _write_untrained(config: Config, snapshot: Path) -> Path:
    """Write a snapshot of the network as it was before its training."""
    trained = load_snapshot(snapshot)
    network = make_untrained(config, device=torch.device("cpu"))
    path = Path(config.path.log_dir) / "untrained.pt"
    untrained = replace(trained, step=0, weights=network.state_dict(), versions=current_versions())
    save_snapshot(path, untrained)
    return path


def _evaluate(
    config: Config, snapshot: Path, *, adapted: bool = False, **settings: Any
) -> tuple[list[VolumeScore], float]:
    """Evaluate a snapshot with the main support; returns the scores and the seconds."""
    import validation

    switches = ("every_support", "baselines", "save_predictions", "report")
    minimal = {**dict.fromkeys(switches, False), "chunks": True, "all_slices": True, "guide": "none"}
    minimal |= {"unet_steps": 0, "unet_joins": False, "intensity_weight": RECOMMENDED_WEIGHT}
    steps = config.adaptation.steps if adapted else 0
    changes = {
        "resume": None,
        "reload_model_path": str(snapshot),
        "evaluation": config.evaluation.model_copy(update={**minimal, **settings}),
        "adaptation": config.adaptation.model_copy(update={"steps": steps}),
    }
    started = time.perf_counter()
    scores = validation.evaluate(config.model_copy(update=changes), Path(config.path.log_dir) / "evaluation")
    return scores, time.perf_counter() - started


def _tabulate(scores: Sequence[VolumeScore], method: str) -> dict[str, Any]:
    tables = {}
    for protocol in PROTOCOLS:
        selected = select(scores, main_support=True, method=method, protocol=protocol)
        tables[protocol] = {
            "mean": round(overall_mean(selected), 4),
            "organs": {organ: round(mean, 4) for organ, mean in organ_means(selected).items()},
            "queries": {f"{score.query_id} {score.organ}": round(score.dice, 4) for score in selected},
        }
    return tables
