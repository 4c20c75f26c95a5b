"""Configuration keys that may change when a training resumes."""

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
