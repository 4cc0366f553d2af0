"""The clock of the benchmarks, and the ceiling that they are held against."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

# Side of the matrices of the ceiling.
_MATRIX = {"cpu": 2048, "cuda": 8192}


def seconds(function: Callable[[], object], device: str = "cpu") -> float:
    """How long one call takes, on the wall's clock, until the device has done it."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Ceiling:
    """The machine's matrix product, timed beside what is measured.

    A machine whose speed changes then changes both.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: of the matrices.
    """

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device, self.side = device, _MATRIX[device]
        self.a, self.b = (
            torch.rand(self.side, self.side, dtype=dtype, device=device) for _ in range(2)
        )
        self.times: list[float] = []
        self.measure(1)
        self.times.clear()

    def measure(self, times: int = 5) -> None:
        """Time the product again."""
        self.times += [seconds(lambda: self.a @ self.b, self.device) for _ in range(times)]

    def beside(self, functions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
        """Seconds of each function, once in each round, the product timed in each round too."""
        for function in functions:
            function()  # finds memory and chooses kernels
        times: list[list[float]] = [[] for _ in functions]
        for _ in range(rounds):
            self.measure()
            for function, spent in zip(functions, times, strict=True):
                spent.append(seconds(function, self.device))
        return times

    @property
    def gflops(self) -> float:
        """10**9 operations a second, by the median."""
        return 2 * self.side**3 / statistics.median(self.times) / 1e9

    def share(self, operations: float, spent_s: float) -> dict[str, float]:
        """The part of a benchmark's row that tells how near it comes to the product."""
        return {
            "gemm_gflops": self.gflops,
            "share_of_gemm": operations / 1e9 / spent_s / self.gflops,
        }
