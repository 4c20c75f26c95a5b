"""The study's arms, each one change to a common start.

Profiles say on what they run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config_ssl_upload import RECIPES, Config, dataset_defaults, parse_config
from models.prior_masks import PRIOR_FORMS
from util.config.settings import merge_values

N_MARKS = 4  # equal parts of a training after each of which it is evaluated
N_LOG_LINES = 20
# The common start: this rate, cut to a tenth after four fifths of the steps.
START_RATE, CUT_AT, CUT_TO = 3e-3, 0.8, 0.1

ABLATION, PRIOR, RECIPE, WHOLE = "ablation", "prior", "recipe", "whole"
START = "start"


@dataclass(frozen=True)
class Arm:
    """One setting to be compared with the common start.

    Attributes:
        group: which question it belongs to.
        meaning: what is different, in words.
        changes: nested configuration values.
        recipe: whose defaults it takes; another than `published` keeps its own rate.
    """

    group: str
    meaning: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "published"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """On what the arms run, and for how long.

    Attributes:
        meaning: in words.
        dataset: of the configuration.
        eval_fold: the fold that is held out of training and scored.
        n_episodes: of each training; arms with larger batches take fewer steps.
        n_seeds: trainings of each arm.
        values: nested configuration values.
        arms: names of the arms; None: all.
        more_sv: least sizes of the further supervoxels of the arm that mixes them.
        gpu: whether it is meant for a GPU.
        chooses: whether choices may be made by it, those of test time among them; a fold that is not meant
            for choosing is scored once.
    """

    meaning: str
    dataset: str
    eval_fold: int
    n_episodes: int
    n_seeds: int
    values: Mapping[str, Any]
    arms: tuple[str, ...] | None = None
    more_sv: tuple[int, ...] = ()
    gpu: bool = False
    chooses: bool = True


def _without(switch: str, meaning: str) -> Arm:
    return Arm(ABLATION, f"{meaning}: `model.{switch}=False`", {"model": {switch: False}})


def _prior(form: str, gradient: str = "none") -> Arm:
    meaning = f"`prior_form={form}`" + ("" if gradient == "none" else f", `prior_gradient={gradient}`")
    return Arm(PRIOR, meaning, {"model": {"prior_form": form, "prior_gradient": gradient}})


def _batch_4(rate: float, meaning: str) -> Arm:
    changes = {"batch_size": 4, "optim": {"lr": rate, "warmup": 0.1}}
    return Arm(RECIPE, f"batch 4, {meaning}, warm-up over a tenth", changes)


_COSINE = {"schedule": "cosine", "warmup": 0.05}
_PUBLISHED_RATE = {"optim": {"lr": 1e-3}, "max_iters_per_load": 10_000, "lr_step_gamma": 0.98}
_INTENSITIES = {"contrast": [0.7, 1.4], "brightness": 0.3, "noise": 0.2, "bias": 0.3}

ARMS = {
    "published": Arm(WHOLE, "the published rate: 1e-3, times 0.98 every 10 000 steps", _PUBLISHED_RATE),
    START: Arm(WHOLE, "the common start: rate 3e-3, cut to a tenth after four fifths"),
    "strong": Arm(
        WHOLE, "`recipe=strong`: AdamW, rate 3e-4, weight decay 1e-2, warm-up, cosine", recipe="strong"
    ),
    "no_prior": _without("prior", "no HCPMG"),
    "no_mining": _without("mining", "no TRM"),
    "no_expansion": _without("expansion", "prototypes not expanded"),
    "angle_only": _without("magnitude", "cosine alone"),
    **{f"prior_{form}": _prior(form) for form in PRIOR_FORMS if form != "literal"},  # that is the start's
    "prior_literal_soft": _prior("literal", "soft"),
    **{f"prior_{form}_through": _prior(form, "straight_through") for form in PRIOR_FORMS},
    "rate_1e-2": Arm(RECIPE, "rate 1e-2", {"optim": {"lr": 1e-2}}),
    "cosine": Arm(RECIPE, "warm-up over a twentieth, then half a cosine", {"optim": _COSINE}),
    "batch_4_linear": _batch_4(4 * START_RATE, "rate times 4"),
    "batch_4_root": _batch_4(2 * START_RATE, "rate times 2"),
    "clipped": Arm(RECIPE, "norm of the gradients clipped at 1", {"optim": {"clip_norm": 1.0}}),
    "averaged": Arm(RECIPE, "average of the weights, decay 0.99", {"optim": {"ema_decay": 0.99}}),
    "gaps": Arm(RECIPE, "support and query up to 3 slices apart", {"task": {"max_gap": 3}}),
    "mixed_sizes": Arm(RECIPE, "supervoxels of three sizes", {"task": {"more_sv": ()}}),
    "intensities": Arm(RECIPE, "contrast, brightness, noise, bias fields", {"task": _INTENSITIES}),
    "group_norm": Arm(RECIPE, "GroupNorm instead of BatchNorm", {"model": {"norm": "group"}}),
    "frozen_norm": Arm(RECIPE, "BatchNorm without statistics", {"model": {"frozen_batchnorm": True}}),
    "fp32": Arm(RECIPE, "float32, where the others take bfloat16 for speed", {"precision": "fp32"}),
}

_SMALL = {
    "model": {"encoder": "resnet18", "encoder_weights": None, "feature_width": 64},
    "precision": "bf16",
    "num_workers": 0,
}
_LARGE = {"model": {"encoder_weights": None}, "precision": "bf16", "num_workers": 4}
_MAIN = ("published", START, "strong", "no_prior", "no_mining", "no_expansion", "angle_only")
_PRIORS = ("prior_standardised", "prior_contrast", "prior_calibrated")

PROFILES = {
    "quick": Profile(
        meaning="PHANTOM, fold 0, 64 px, ResNet-18 of width 64: a short look that decides nothing",
        dataset="PHANTOM",
        eval_fold=0,
        n_episodes=750,
        n_seeds=2,
        values=_SMALL,
        arms=(*_MAIN, "prior_standardised"),
    ),
    "phantom_default": Profile(
        meaning="PHANTOM, fold 0, as `bash script/train.sh dataset=PHANTOM` trains; the start is its default",
        dataset="PHANTOM",
        eval_fold=0,
        n_episodes=2000,
        n_seeds=2,
        values={},
        arms=(START,),
        chooses=False,
    ),
    "phantom": Profile(
        meaning="PHANTOM, fold 0, 64 px, ResNet-18 of width 64: for choosing",
        dataset="PHANTOM",
        eval_fold=0,
        n_episodes=1000,
        n_seeds=2,
        values=_SMALL,
        more_sv=(90, 360),
    ),
    "chaost2_choice": Profile(
        meaning="CHAOST2, fold 2 held out, 128 px, ResNet-18 of width 64: for choosing",
        dataset="CHAOST2",
        eval_fold=2,
        n_episodes=1000,
        n_seeds=2,
        values={**_SMALL, "image_size_px": [128, 128]},
        arms=("published", START, "strong"),
    ),
    "chaost2": Profile(
        meaning="CHAOST2, fold 0 held out, 128 px, ResNet-18 of width 64: after the choice",
        dataset="CHAOST2",
        eval_fold=0,
        n_episodes=2000,
        n_seeds=2,
        values={**_SMALL, "image_size_px": [128, 128]},
        arms=("published", "strong"),
        chooses=False,
    ),
    "chaost2_gpu_choice": Profile(
        meaning="CHAOST2, fold 2 held out, 256 px, ResNet-101 of width 512: for choosing",
        dataset="CHAOST2",
        eval_fold=2,
        n_episodes=10_000,
        n_seeds=2,
        values=_LARGE,
        arms=(*_MAIN, *_PRIORS),
        gpu=True,
    ),
    "chaost2_gpu": Profile(
        meaning="CHAOST2, fold 0 held out, 256 px, ResNet-101 of width 512: after the choice",
        dataset="CHAOST2",
        eval_fold=0,
        n_episodes=10_000,
        n_seeds=2,
        values=_LARGE,
        arms=_MAIN,
        gpu=True,
        chooses=False,
    ),
}


def changes_of(profile: Profile, arm: Arm, seed: int) -> dict[str, Any]:
    """Return all that a training changes of the published defaults.

    As nested plain values.
    """
    n_steps = profile.n_episodes // arm.changes.get("batch_size", 1)
    common = {
        "dataset": profile.dataset,
        "recipe": arm.recipe,
        "eval_fold": profile.eval_fold,
        "seed": seed,
        "n_steps": n_steps,
        "save_snapshot_every": n_steps // N_MARKS,
        "print_interval": max(1, n_steps // N_LOG_LINES),
        "evaluation": {"baselines": False, "save_predictions": False},
    }
    rate = {
        "optim": {"lr": START_RATE},
        "max_iters_per_load": round(CUT_AT * n_steps),
        "lr_step_gamma": CUT_TO,
    }
    further = {"task": {"more_sv": list(profile.more_sv)}} if "more_sv" in arm.changes.get("task", {}) else {}
    parts = (RECIPES[arm.recipe], profile.values, rate if arm.recipe == "published" else {}, arm.changes)
    changes: dict[str, Any] = common
    for part in (*parts, further):
        changes = _joined(changes, part)
    return changes


def make_config(profile: Profile, arm: Arm, seed: int, *, more: Mapping[str, Any]) -> Config:
    """Return the checked configuration of one training.

    `more` are nested values of where data lie and what computes.
    """
    values = dataset_defaults(profile.dataset, arm.recipe)
    for changes in (changes_of(profile, arm, seed), more):
        values = merge_values(values, changes)
    return parse_config(values)


def _joined(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for name, value in more.items():
        result[name] = _joined(result.get(name, {}), value) if isinstance(value, Mapping) else value
    return result


def arms_of(profile: Profile) -> dict[str, Arm]:
    """Return a profile's arms by name."""
    return {name: ARMS[name] for name in profile.arms or ARMS}
