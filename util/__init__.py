"""Leaves that everything else may import: files, images, seeds, metrics, checkpoints, reports."""
