"""Metrics, tables and prediction files."""
