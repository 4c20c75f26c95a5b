"""Training state, checkpoints and run folders."""
