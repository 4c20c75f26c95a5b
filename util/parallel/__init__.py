"""Ranks, their collectives, devices and processors."""
