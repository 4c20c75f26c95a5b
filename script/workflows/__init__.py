"""What joins configuration, data and network, for the entry points."""
