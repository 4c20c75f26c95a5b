"""Supervoxels: pseudo-labels for training on unlabelled scans.

Build the compiled part once: `python data/supervoxels/setup.py build_ext --inplace`.
"""

# Increase it with every change that alters a result: files of an older version are then rebuilt.
ALGORITHM_VERSION = 1

BUILD_COMMAND = "python data/supervoxels/setup.py build_ext --inplace"
