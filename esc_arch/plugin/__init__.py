"""Joining BasicSR: the import hook, registration, and the work-arounds of its defects."""
