"""The synthetic scans of `dataset=PHANTOM`."""
