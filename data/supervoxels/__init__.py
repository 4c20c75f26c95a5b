"""Supervoxels: the pseudo-organs that training cuts out of unlabelled scans.

Build the compiled part once: `python data/supervoxels/setup.py build_ext --inplace`.
"""

# Raise it with every change that alters a result: files made by an older version are then made anew.
ALGORITHM_VERSION = 1

BUILD_COMMAND = "python data/supervoxels/setup.py build_ext --inplace"
