"""Configuration keys and the command line."""
