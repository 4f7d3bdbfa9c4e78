"""A run's folder on disk, and what it tells of the network that was trained in it."""
