"""Leaves that everything else may import.

They concern files, images, seeds, metrics, checkpoints and reports.
"""
