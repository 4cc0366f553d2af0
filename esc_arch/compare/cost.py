"""Cost of networks: parameters, multiply-adds, latency, peak memory.

Each network is measured in a process of its own:

    python -m esc_arch.compare.cost REQUEST

prints one line of JSON for the latency and the memory, or why they are missing, and then one for
the parameters and the multiply-adds.
"""

import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from esc_arch.archs.presets import PRESETS
from esc_arch.compare.results import Row, machine
from esc_arch.errors import UserError
from esc_arch.machine import extra_peak_bytes

__all__ = ["DTYPES", "OUTPUT_SIZES", "Request", "costs", "extra_peak_mb", "measure", "output_size"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Names of output sizes (width, height) in pixels; the published numbers are of HD.
OUTPUT_SIZES = {"HD": (1280, 720), "FHD": (1920, 1080), "4K": (3840, 2160)}


@dataclass(frozen=True)
class Request:
    """One measurement.

    Attributes:
        network: a preset.
        width, height: of the LR image, in pixels.
        device: ``cpu`` or ``cuda``.
        dtype: one of DTYPES.
        warm_up, runs: inferences before the clock starts, and on it; without runs only
            parameters and multiply-adds are counted.
    """

    network: str
    scale: int
    width: int
    height: int
    device: str
    dtype: str
    warm_up: int
    runs: int


def output_size(text: str) -> tuple[int, int]:
    """Width and height of an output: one of OUTPUT_SIZES, or such as ``640x360``.

    Raises:
        UserError: for another text.
    """
    if text.upper() in OUTPUT_SIZES:
        return OUTPUT_SIZES[text.upper()]
    width, _, height = text.lower().partition("x")
    if width.isdecimal() and height.isdecimal() and int(width) and int(height):
        return int(width), int(height)
    raise UserError(
        f"--output-size: expected {', '.join(OUTPUT_SIZES)} or a size such as 640x360; found {text}"
    )


def costs(
    networks: Sequence[str],
    scales: Sequence[int],
    output: tuple[int, int],
    device: str,
    dtype: str,
    warm_up: int,
    runs: int,
    timeout_s: float,
    done: Callable[[Row], None],
) -> list[Row]:
    """Measure one network after another, each in a process of its own.

    The LR image is as large as fits in the output: floor(width / scale) and so on.

    Args:
        networks: presets.
        output: width and height of the output in pixels.
        device, dtype, warm_up, runs: as :class:`Request` has them.
        timeout_s: after which a network is given up.
        done: called with each row as it comes.

    Returns:
        Rows of ``results.json``; ``error`` in a row says what could not be measured.

    Raises:
        UserError: for an unknown preset, or a scale that none of the networks has.
    """
    for name in networks:
        if name not in PRESETS:
            raise UserError(
                f"--networks: expected presets ({', '.join(PRESETS)}); found {name}. "
                "`basicsr nets` lists them."
            )
    pairs = [(n, s) for s in scales for n in networks if s in PRESETS[n].scales]
    if not pairs:
        known = sorted({scale for name in networks for scale in PRESETS[name].scales})
        raise UserError(
            f"--scales: expected a scale of these networks ({', '.join(map(str, known))}); found "
            f"{', '.join(map(str, scales))}. Name one of them."
        )
    rows = []
    for network, scale in pairs:
        width, height = (side // scale for side in output)
        request = Request(network, scale, width, height, device, dtype, warm_up, runs)
        row: Row = {
            "network": network,
            "scale": scale,
            "width": width,
            "height": height,
            # Counts alone do not take the place of what was measured.
            "device": device if runs else "none",
            "dtype": dtype,
            "machine": machine(),
            "runs": runs,
            **measure(request, timeout_s),
        }
        rows.append(row)
        done(row)
    return rows


def measure(request: Request, timeout_s: float) -> dict[str, object]:
    """Measure in a fresh process.

    Returns:
        parameters, multiply_adds, median_ms, fastest_ms, slowest_ms, peak_mb, as far as they
        could be measured; ``error`` says why one could not.
    """
    row = _row(request, timeout_s)
    if "multiply_adds" not in row:  # killed, or too slow
        row = _row(replace(request, runs=0), timeout_s) | row
    return row


def _row(request: Request, timeout_s: float) -> dict[str, object]:
    command = [sys.executable, "-m", "esc_arch.compare.cost", json.dumps(asdict(request))]
    row: dict[str, object] = {}
    error = None
    try:
        # It starts no other process, so that nothing is left when it is killed.
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        output = done.stdout
        if done.returncode:
            error = _reason(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout.decode() if isinstance(expired.stdout, bytes) else ""
        error = f"not done after {timeout_s:.0f} s"
    for line in output.splitlines():
        if line.startswith("{"):
            row |= json.loads(line)
    if error is not None:
        row.setdefault("error", error)
    return row


def _reason(code: int, errors: str) -> str:
    """Why a process ended: the last line of its errors, or the signal that killed it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps as memory ran out" if code == -9 else "")
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
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for before, after in events:
        before.record()
        network(image)
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in events]


def main() -> None:
    """Measure as the :class:`Request` on the command line, as JSON, asks."""
    from esc_arch.checkpoints.loading import create
    from esc_arch.compare import flops

    request = Request(**json.loads(sys.argv[1]))
    if request.runs:
        try:
            row: dict[str, object] = dict(_cost(request))
        except Exception as error:
            row = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(row), flush=True)
    # Afterwards: memory that counting frees would serve the inference, unmeasured.
    network = create(request.network, request.scale).eval()
    count = flops.multiply_adds(network, *flops.published_size(request.scale))
    counts = {"parameters": flops.parameters(network), "multiply_adds": count}
    print(json.dumps(counts), flush=True)


def _cost(request: Request) -> dict[str, float]:
    from esc_arch.archs.whole_windows import WholeWindows
    from esc_arch.checkpoints.loading import create

    network = create(request.network, request.scale).eval()
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
