"""Comparing networks: cost, quality, training, and the report."""
