"""Configuration keys of the optimiser, and keys that may change on resume."""

from dataclasses import dataclass

from util.config.settings import key, one_of, optional, real

# Keys that a resumed training does not take over from its former run.
NEW_ON_RESUME = ("resume", "resume_changed")
# Keys and groups that may change on resume, because they do not affect the result.
FREE_ON_RESUME = (
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
    "evaluation",
    "path",
)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser."""

    name: str = key("sgd", one_of("sgd", "adamw"), "optimiser")
    lr: float = key(1e-3, real(0, open_minimum=True), "base learning rate")
    momentum: float = key(0.9, real(0, 1), "momentum of sgd; adamw's first decay rate")
    weight_decay: float = key(5e-4, real(0), "weight decay")
    schedule: str = key(
        "steps",
        one_of("steps", "cosine"),
        "steps: cuts by `lr_step_gamma`; cosine: down to zero at the last step",
    )
    warmup: float = key(0.0, real(0, 1), "share of the steps in which the rate rises to `lr`")
    clip_norm: float | None = key(
        None, optional(real(0, open_minimum=True)), "maximum global gradient norm; None: no clipping"
    )
    ema_decay: float = key(
        0.0,
        real(0, 0.999999),
        "decay of the weights' exponential moving average, which snapshots then hold; 0: none",
        formerly="average_decay",
    )
