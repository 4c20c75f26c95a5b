"""Metrics, tables and prediction files."""

N_FOLDS = 5  # of every cross-validation; script/folds.py, which needs no package, repeats it
