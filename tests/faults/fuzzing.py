"""How hard hypothesis tries: the same few examples in each run, many with ``FAULTS_DEEP=N``."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def ends(seconds: float = 60) -> Iterator[None]:
    """Stops what hangs, after so many seconds of the processor."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"still at work after {seconds} s of the processor")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
