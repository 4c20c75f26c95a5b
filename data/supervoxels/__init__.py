"""Supervoxels: pseudo-labels for training on unlabelled scans.

Build the Cython extension with `python data/supervoxels/setup.py build_ext --inplace`.
"""

# Increment it with every change that affects results; files of an older version are then rebuilt.
ALGORITHM_VERSION = 1

BUILD_COMMAND = "python data/supervoxels/setup.py build_ext --inplace"
