"""Arms, each one change to the reference, and profiles to run them on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config_ssl_upload import RECIPES, Config, dataset_defaults, parse_config
from models.prior_masks import PRIOR_FORMS
from util.config.settings import merge_values

N_SEEDS = 2
N_CURVE_POINTS = 4  # evaluations of a training, equally spaced
N_LOG_LINES = 20
# The reference arm: this learning rate, multiplied by DECAY after DECAY_AT of the steps.
REFERENCE_RATE, DECAY_AT, DECAY = 3e-3, 0.8, 0.1

ABLATION, PRIOR, RECIPE, WHOLE = "ablation", "prior", "recipe", "whole"
REFERENCE = "start"  # the key of its records
SMALL_FIRST = "strong_small_first"


@dataclass(frozen=True)
class Arm:
    """One setting to compare with the reference: changed values, or a recipe."""

    group: str  # ABLATION, PRIOR, RECIPE or WHOLE
    meaning: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "published"  # others keep their own learning rate


@dataclass(frozen=True)
class Profile:
    """Dataset, network and length of training on which arms are compared.

    Attributes:
        n_episodes: per training; arms with larger batches take fewer steps.
        values: nested configuration values.
        arms: names of the arms; None: all.
        more_sv: sizes of the additional supervoxels of the arm that mixes them.
        for_selection: whether settings may be selected by its scores; other folds are scored once.
        adaptation_steps: if above 0, the last snapshot is scored with registration and after adaptation too.
        twin: if given, the arm with which the others are compared, in a few rows each.
        has_all_rows: whether the twin, or the only arm, is scored in all rows, not just in those few.
    """

    meaning: str
    dataset: str
    eval_fold: int
    n_episodes: int
    values: Mapping[str, Any] = field(default_factory=dict)
    arms: tuple[str, ...] | None = None
    more_sv: tuple[int, ...] = ()
    for_selection: bool = True
    adaptation_steps: int = 0
    twin: str | None = None
    has_all_rows: bool = True

    def named_arms(self) -> dict[str, Arm]:
        """Return the profile's arms by name."""
        return {name: ARMS[name] for name in self.arms or ARMS}


def _without(switch: str, meaning: str) -> Arm:
    return Arm(ABLATION, f"{meaning}: `model.{switch}=False`", {"model": {switch: False}})


def _prior(form: str, gradient: str = "none") -> Arm:
    meaning = f"`prior_form={form}`" + ("" if gradient == "none" else f", `prior_gradient={gradient}`")
    return Arm(PRIOR, meaning, {"model": {"prior_form": form, "prior_gradient": gradient}})


def _strong(meaning: str, **task: Any) -> Arm:
    return Arm(RECIPE, meaning, {"task": task}, recipe="strong")


def _batch_4(factor: int) -> Arm:
    changes = {"batch_size": 4, "optim": {"lr": factor * REFERENCE_RATE, "warmup": 0.1}}
    return Arm(RECIPE, f"batch size 4, {factor} times the rate, warm-up over a tenth", changes)


_COSINE = {"schedule": "cosine", "warmup": 0.05}
_PUBLISHED_RATE = {"optim": {"lr": 1e-3}, "max_iters_per_load": 10_000, "lr_step_gamma": 0.98}
_INTENSITIES = {"contrast": [0.7, 1.4], "brightness": 0.3, "noise": 0.2, "bias": 0.3}
_GEOMETRY = {"rotation_deg": 15.0, "shift_px": 20.0, "scale": [0.7, 1.4]}
_STRONG = "`recipe=strong`: AdamW, rate 3e-4, weight decay 1e-2, warm-up, cosine schedule"

STARTS = {
    "strong_gaps": _strong("support and query up to 3 slices apart", max_gap=3),
    "strong_intensities": _strong("contrast, brightness, noise and bias-field augmentation", **_INTENSITIES),
    "strong_sizes": _strong("supervoxels of three sizes", more_sv=()),
    "strong_varied": _strong(
        "gaps, intensities, and rotation, shift and scale as in adaptation",
        max_gap=3,
        **_GEOMETRY,
        **_INTENSITIES,
    ),
    SMALL_FIRST: _strong("slices of half the size in 70 % of the steps, the first ones", half_size_share=0.7),
}
ARMS = {
    "published": Arm(WHOLE, "the published rate: 1e-3, times 0.98 every 10 000 steps", _PUBLISHED_RATE),
    REFERENCE: Arm(WHOLE, "the reference: rate 3e-3, reduced to a tenth after four fifths"),
    "strong": Arm(WHOLE, _STRONG, recipe="strong"),
    "no_prior": _without("prior", "without HCPMG"),
    "no_mining": _without("mining", "without TRM"),
    "no_expansion": _without("expansion", "without prototype expansion"),
    "angle_only": _without("magnitude", "cosine similarity alone"),
    **{f"prior_{form}": _prior(form) for form in PRIOR_FORMS if form != "literal"},  # the reference's form
    "prior_literal_soft": _prior("literal", "soft"),
    **{f"prior_{form}_through": _prior(form, "straight_through") for form in PRIOR_FORMS},
    "rate_1e-2": Arm(RECIPE, "rate 1e-2", {"optim": {"lr": 1e-2}}),
    "cosine": Arm(RECIPE, "warm-up over a twentieth, cosine schedule", {"optim": _COSINE}),
    "batch_4_linear": _batch_4(4),
    "batch_4_root": _batch_4(2),
    "clipped": Arm(RECIPE, "gradient norm clipped at 1", {"optim": {"clip_norm": 1.0}}),
    "averaged": Arm(
        RECIPE, "exponential moving average of the weights, decay 0.99", {"optim": {"ema_decay": 0.99}}
    ),
    "gaps": Arm(RECIPE, "support and query up to 3 slices apart", {"task": {"max_gap": 3}}),
    "mixed_sizes": Arm(RECIPE, "supervoxels of three sizes", {"task": {"more_sv": ()}}),
    "intensities": Arm(
        RECIPE, "contrast, brightness, noise and bias-field augmentation", {"task": _INTENSITIES}
    ),
    "group_norm": Arm(RECIPE, "GroupNorm in place of BatchNorm", {"model": {"norm": "group"}}),
    "frozen_norm": Arm(RECIPE, "frozen BatchNorm statistics", {"model": {"frozen_batchnorm": True}}),
    "fp32": Arm(RECIPE, "float32; the other arms use bfloat16 for speed", {"precision": "fp32"}),
    **STARTS,
}

_SMALL = {
    "model": {"encoder": "resnet18", "encoder_weights": None, "feature_width": 64},
    "precision": "bf16",
    "num_workers": 0,
}
_SMALL_128 = {**_SMALL, "image_size_px": [128, 128]}
_AUTO, _AUTO_128 = ({**values, "precision": "auto"} for values in (_SMALL, _SMALL_128))
_LARGE = {"model": {"encoder_weights": None}, "precision": "bf16", "num_workers": 4}
_MAIN = ("published", REFERENCE, "strong", "no_prior", "no_mining", "no_expansion", "angle_only")
_PRIORS = ("prior_standardised", "prior_contrast", "prior_calibrated")

_PHANTOM = {"dataset": "PHANTOM", "eval_fold": 0}
_SELECTION = {"dataset": "CHAOST2", "eval_fold": 2}
_HELD_OUT = {"dataset": "CHAOST2", "eval_fold": 0, "for_selection": False}

PROFILES = {
    "quick": Profile(
        "PHANTOM, fold 0, 64 px, ResNet-18 of width 64: a quick look, not conclusive",
        **_PHANTOM,
        n_episodes=750,
        values=_SMALL,
        arms=(*_MAIN, "prior_standardised"),
    ),
    "phantom_default": Profile(
        "PHANTOM, fold 0, ResNet-18 of width 64, twice as long: the reference arm alone",
        **_PHANTOM,
        n_episodes=2000,
        arms=(REFERENCE,),
        for_selection=False,
    ),
    "phantom": Profile(
        "PHANTOM, fold 0, 64 px, ResNet-18 of width 64: for selection",
        **_PHANTOM,
        n_episodes=1000,
        values=_SMALL,
        arms=tuple(name for name in ARMS if name not in STARTS),
        more_sv=(90, 360),
    ),
    "phantom_start": Profile(
        "PHANTOM, fold 0, 64 px, ResNet-18 of width 64: single changes to `strong`, for selection",
        **_PHANTOM,
        n_episodes=1000,
        values=_AUTO,
        arms=("strong", *STARTS),
        more_sv=(90, 360),
        adaptation_steps=150,
        twin="strong",
        has_all_rows=False,
    ),
    "chaost2_choice": Profile(
        "CHAOST2, fold 2 held out, 128 px, ResNet-18 of width 64: for selection",
        **_SELECTION,
        n_episodes=1000,
        values=_SMALL_128,
        arms=("published", REFERENCE, "strong"),
    ),
    "chaost2": Profile(
        "CHAOST2, fold 0 held out, 128 px, ResNet-18 of width 64: after selection",
        **_HELD_OUT,
        n_episodes=2000,
        values=_SMALL_128,
        arms=("published", "strong"),
    ),
    "phantom_scan": Profile(
        "PHANTOM, fold 0, 64 px, ResNet-18 of width 64: all that one annotated scan gives, for selection",
        **_PHANTOM,
        n_episodes=1000,
        values=_AUTO,
        arms=("strong",),
        adaptation_steps=150,
    ),
    "chaost2_scan_choice": Profile(
        "CHAOST2, fold 1 held out, 128 px, ResNet-18 of width 64: all that one annotated scan gives, "
        "for selection",
        **{**_SELECTION, "eval_fold": 1},
        n_episodes=1000,
        values=_AUTO_128,
        arms=("strong",),
        adaptation_steps=600,
    ),
    "chaost2_scan": Profile(
        "CHAOST2, fold 0 held out, 128 px, ResNet-18 of width 64: all that one annotated scan gives, "
        "after selection",
        **_HELD_OUT,
        n_episodes=2000,
        values=_AUTO_128,
        arms=("strong", SMALL_FIRST),
        adaptation_steps=600,
        twin="strong",
    ),
    "chaost2_gpu_choice": Profile(
        "CHAOST2, fold 2 held out, 256 px, ResNet-101 of width 512, for a GPU: for selection",
        **_SELECTION,
        n_episodes=10_000,
        values=_LARGE,
        arms=(*_MAIN, *_PRIORS),
    ),
    "chaost2_gpu": Profile(
        "CHAOST2, fold 0 held out, 256 px, ResNet-101 of width 512, for a GPU: after selection",
        **_HELD_OUT,
        n_episodes=10_000,
        values=_LARGE,
        arms=_MAIN,
    ),
}


def changes_of(profile: Profile, arm: Arm, seed: int) -> dict[str, Any]:
    """Return all values that a training changes from the published defaults, nested."""
    n_steps = profile.n_episodes // arm.changes.get("batch_size", 1)
    changes: dict[str, Any] = {
        "dataset": profile.dataset,
        "recipe": arm.recipe,
        "eval_fold": profile.eval_fold,
        "seed": seed,
        "n_steps": n_steps,
        "save_snapshot_every": n_steps // N_CURVE_POINTS,
        "print_interval": max(1, n_steps // N_LOG_LINES),
        "evaluation": {"baselines": False, "save_predictions": False},
    }
    if arm.recipe == "published":
        schedule = {"max_iters_per_load": round(DECAY_AT * n_steps), "lr_step_gamma": DECAY}
        changes |= {"optim": {"lr": REFERENCE_RATE}, **schedule}
    # A recipe's settings of evaluation are no part of its training.
    ignored_keys = ("adaptation", "evaluation")
    recipe = {name: value for name, value in RECIPES[arm.recipe].items() if name not in ignored_keys}
    for part in (recipe, profile.values, arm.changes):
        changes = _merge(changes, part)
    if "more_sv" in changes.get("task", {}):
        changes["task"]["more_sv"] = list(profile.more_sv)
    return changes


def make_config(profile: Profile, arm: Arm, seed: int, *, overrides: Mapping[str, Any]) -> Config:
    """Return a training's configuration; `overrides` are further nested values."""
    values = merge_values(dataset_defaults(profile.dataset, arm.recipe), changes_of(profile, arm, seed))
    return parse_config(merge_values(values, overrides))


def _merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested values; unlike `merge_values`, it may add keys."""
    result = dict(values)
    for name, value in changes.items():
        result[name] = _merge(result.get(name, {}), value) if isinstance(value, Mapping) else value
    return result
