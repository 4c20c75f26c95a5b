"""Datasets on disk: what each holds, where its files lie, and how they are made."""
