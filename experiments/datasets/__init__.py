"""Readers of the official on-disk layouts; every sample becomes a ``baselines.interface.OccupancyBatch``."""
