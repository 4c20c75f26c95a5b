"""Configuration keys of the optimiser, and keys that may change on resume."""

from typing import Literal

from util.config.settings import Amount, Positive, Settings, key

# Keys that a resumed training does not take over from its former run.
NEW_ON_RESUME = ("resume", "resume_changed")
# Keys and groups that may change on resume, because they do not affect the result.
IGNORED_ON_RESUME = (
    "resume",
    "resume_changed",
    "checkpoint_minutes",
    "save_snapshot_every",
    "print_interval",
    "num_workers",
    "device",
    "activation_checkpointing",
    "nonfinite",
    "reload_model_path",
    "adaptation",
    "tag",
    "evaluation",
    "path",
    "tensorboard",
)


class OptimConfig(Settings):
    """The optimiser."""

    name: Literal["sgd", "adamw"] = key("sgd", "optimiser")
    lr: Positive = key(1e-3, "base learning rate")
    momentum: float = key(0.9, "momentum of sgd; adamw's first decay rate", ge=0, le=1)
    weight_decay: Amount = key(5e-4, "weight decay")
    schedule: Literal["steps", "cosine"] = key(
        "steps", "steps: cuts by `lr_step_gamma`; cosine: down to zero at the last step"
    )
    warmup: float = key(0.0, "share of the steps in which the rate rises to `lr`", ge=0, le=1)
    clip_norm: Positive | None = key(None, "maximum global gradient norm; None: no clipping")
    ema_decay: float = key(
        0.0,
        "decay of the weights' exponential moving average, which snapshots then hold; 0: none",
        old_name="average_decay",
        ge=0,
        le=0.999999,
    )
