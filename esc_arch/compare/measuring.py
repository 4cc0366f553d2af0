"""One network's cost, measured in a process of its own.

    python -m esc_arch.compare.measuring REQUEST

prints one line of JSON for the latency and the memory, or why they could not be had, and then one
for the parameters and the multiply-adds.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from esc_arch.machine import extra_peak_bytes

__all__ = ["DTYPES", "Request", "extra_peak_mb", "measure"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        network: a preset.
        width, height: of the LR image, in pixels.
        device: ``cpu`` or ``cuda``.
        dtype: one of DTYPES.
        warm_up, runs: inferences before the clock starts, and on it; without runs only
            parameters and multiply-adds are found.
    """

    network: str
    scale: int
    width: int
    height: int
    device: str
    dtype: str
    warm_up: int
    runs: int


def measure(request: Request, timeout_s: float) -> dict[str, object]:
    """Measure in a fresh process.

    Returns:
        parameters, multiply_adds, median_ms, fastest_ms, slowest_ms, peak_mb, as far as they
        could be had; ``error`` says why one could not.
    """
    row = _row(request, timeout_s)
    if "multiply_adds" not in row:  # killed, or too slow
        row = _row(replace(request, runs=0), timeout_s) | row
    return row


def _row(request: Request, timeout_s: float) -> dict[str, object]:
    command = [sys.executable, "-m", "esc_arch.compare.measuring", json.dumps(asdict(request))]
    row: dict[str, object] = {}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            row["error"] = f"not done after {timeout_s:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    for line in output.splitlines():
        if line.startswith("{"):
            row |= json.loads(line)
    if process.returncode and "error" not in row:
        row["error"] = _reason(process.returncode, errors)
    return row


def _reason(code: int, errors: str) -> str:
    """Why a process ended: its last words, or the signal that killed it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps for want of memory" if code == -9 else "")
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


def extra_peak_mb(network: nn.Module, image: torch.Tensor) -> float:
    """Growth of the peak memory by one inference, in 10**6 bytes.

    On a GPU what the allocator held at the most, the parameters and the image included, as in
    the published tables; on a CPU what it adds to this process's resident memory.
    """
    if image.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        network(image)
        return torch.cuda.max_memory_allocated() / 1e6
    return extra_peak_bytes(lambda: network(image)) / 1e6


def _latencies_ms(network: nn.Module, image: torch.Tensor, runs: int) -> list[float]:
    if not image.is_cuda:
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            network(image)
            times.append(1e3 * (time.perf_counter() - start))
        return times
    pairs = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        network(image)
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def main() -> None:
    """Measure what the command line asks for."""
    import esc_arch
    from esc_arch.compare import flops

    request = Request(**json.loads(sys.argv[1]))
    if request.runs:
        try:
            row = _cost(request)
        except Exception as error:
            row = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(row), flush=True)
    # Afterwards: what counting frees would be there for the inference, and not be measured.
    network = esc_arch.create(request.network, request.scale).eval()
    count = flops.multiply_adds(network, *flops.published_size(request.scale))
    counts = {"parameters": flops.parameters(network), "multiply_adds": count}
    print(json.dumps(counts), flush=True)


def _cost(request: Request) -> dict[str, float]:
    import esc_arch
    from esc_arch.archs.whole_windows import WholeWindows

    network = esc_arch.create(request.network, request.scale).eval()
    network = WholeWindows(network).to(request.device, DTYPES[request.dtype])
    image = torch.rand(1, 3, request.height, request.width)
    image = image.to(request.device, DTYPES[request.dtype])
    with torch.inference_mode():
        peak_mb = extra_peak_mb(network, image)
        for _ in range(request.warm_up - 1):
            network(image)
        times = _latencies_ms(network, image, request.runs)
    return {
        "median_ms": statistics.median(times),
        "fastest_ms": min(times),
        "slowest_ms": max(times),
        "peak_mb": peak_mb,
    }


if __name__ == "__main__":
    main()
