"""How hard hypothesis tries: the same few examples in each run, many with ``FAULTS_DEEP=N``."""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings

_DEEP = int(os.environ.get("FAULTS_DEEP", "0"))


def examples(count: int) -> Callable:
    """A decorator: so many examples, always the same; with ``FAULTS_DEEP=N`` N times as many
    other ones."""
    return settings(
        max_examples=count * (_DEEP or 1),
        derandomize=not _DEEP,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
