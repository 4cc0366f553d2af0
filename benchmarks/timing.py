"""The clock of the benchmarks."""

import time
from collections.abc import Callable


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes, on the wall's clock."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
