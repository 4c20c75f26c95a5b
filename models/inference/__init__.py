"""Segment whole scans with a prepared support."""
