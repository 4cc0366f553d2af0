"""Comparing networks: what they cost, how well they do, how they train, and the report."""
