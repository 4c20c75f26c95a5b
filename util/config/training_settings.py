"""Configuration keys of the network and of its optimiser."""

from dataclasses import dataclass
from pathlib import Path

from util.config.settings import flag, key, one_of, optional, real, text, whole
from util.errors import UserError

PUBLISHED_WEIGHTS = ("deeplabv3_coco", "imagenet")
PRIOR_FORMS = ("literal", "standardised", "contrast", "calibrated")
PRIOR_GRADIENTS = ("none", "straight_through", "soft")
# Keys that are not taken over from the run that a training goes on from.
NEW_ON_RESUME = ("resume", "resume_changed")
# Keys, and groups of keys, that may differ when a training goes on: they change no result.
FREE_ON_RESUME = (
    "resume",
    "resume_changed",
    "checkpoint_minutes",
    "save_snapshot_every",
    "print_interval",
    "num_workers",
    "device",
    "recompute",
    "nonfinite",
    "reload_model_path",
    "evaluation",
    "path",
)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser."""

    name: str = key("sgd", one_of("sgd", "adamw"), "optimiser")
    lr: float = key(1e-3, real(0, open_minimum=True), "learning rate at the start")
    momentum: float = key(0.9, real(0, 1), "momentum of sgd; adamw's first decay rate")
    weight_decay: float = key(5e-4, real(0), "weight decay")
    schedule: str = key(
        "steps",
        one_of("steps", "cosine"),
        "steps: cuts by `lr_step_gamma`; cosine: down to nothing at the last step",
    )
    warmup: float = key(0.0, real(0, 1), "share of the steps in which the rate rises to `lr`")
    clip_norm: float | None = key(
        None, optional(real(0, open_minimum=True)), "largest norm of all gradients together; None: any"
    )
    average_decay: float = key(
        0.0, real(0, 0.999999), "decay of the weights' running average, which snapshots then hold; 0: none"
    )


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    encoder: str = key(
        "resnet101", one_of("resnet101", "resnet50", "resnet18"), "encoder; the small ones suit CPUs"
    )
    encoder_weights: str | None = key(
        "deeplabv3_coco",
        optional(text()),
        "start of the encoder: `deeplabv3_coco` or `imagenet` (downloaded once), a file, or None for random",
    )
    feature_width: int = key(512, whole(1, 8192), "channels of features, attention and decoders")
    frozen_batchnorm: bool = key(False, flag(), "keep BatchNorm's running statistics while training")
    magnitude: bool = key(True, flag(), "compare by magnitude too; False: by angle alone")
    norm: str = key("batch", one_of("batch", "group"), "BatchNorm, or GroupNorm for random starts")
    prior: bool = key(True, flag(), "use HCPMG's prior masks; False: masks of 1 everywhere")
    prior_form: str = key("literal", one_of(*PRIOR_FORMS), "what the prior masks compare; literal: published")
    prior_gradient: str = key(
        "none", one_of(*PRIOR_GRADIENTS), "how gradients pass the prior masks; none: published"
    )
    mining: bool = key(True, flag(), "use TRM; False: the query's own features")
    expansion: bool = key(True, flag(), "use POEM's prototype expansion; False: the support's prototypes")


def check_encoder_weights(weights: str | None) -> None:
    """Raise `UserError` unless weights are published ones, None, or a whole file."""
    if weights in (None, *PUBLISHED_WEIGHTS):
        return
    from util.io.tensor_files import check_archive  # late: --help and print_config do without torch

    if not Path(weights).is_file():
        known = ", ".join(PUBLISHED_WEIGHTS)
        raise UserError(f"model.encoder_weights={weights}: must be {known}, None or an existing file")
    check_archive(Path(weights), what="file of weights", legacy=True)
