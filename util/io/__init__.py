"""Volumes, JSON, tensors and atomic files."""
