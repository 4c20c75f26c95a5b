"""Prepared volumes in, training episodes and evaluation sets out."""
