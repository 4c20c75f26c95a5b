"""Training state, checkpoints and runs."""
