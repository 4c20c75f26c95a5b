"""Prepare a dataset from its download."""
