"""Where it pays to add up the pixels of equal weight before a convolution multiplies them.

    python benchmarks/symmetric_conv.py [--json FILE]

A map of 320 x 180 pixels is convolved by a symmetric kernel, by PyTorch (oneDNN) and by the
kernel of this package, for several sizes and numbers of channels.  Each round times both once.
"""

import argparse
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from description import description
from fresh_process import write_json
from rich.console import Console
from rich.table import Table
from timing import seconds

from esc_arch.archs.esc_arch import geometric_mean_kernel
from esc_arch.fast import kernels

HEIGHT, WIDTH = 180, 320
CASES = [(16, k) for k in (3, 5, 7, 9, 13, 17)] + [(p, 13) for p in (32, 48)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="default: 9")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    args = parser.parse_args()
    with torch.inference_mode():
        rows = [measure(p, k, args.rounds) for p, k in CASES]
    report = {"image": [HEIGHT, WIDTH], "rounds": args.rounds, **description(), "rows": rows}
    Console(width=100).print(as_table(report))
    write_json(args.json, report)


def measure(p: int, k: int, rounds: int) -> dict[str, object]:
    x = torch.randn(1, p, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    kernel = geometric_mean_kernel(torch.randn(p, p, k, k))
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    dynamic_kernel = torch.zeros(1, p, 3, 3)
    functions = {
        "pytorch_s": lambda: F.conv2d(x, kernel, padding=k // 2),
        "kernel_s": lambda: kernels.symmetric_conv(x, kernel, dynamic_kernel, torch.empty_like(x)),
    }
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    radius = k // 2
    return {
        "channels": p,
        "kernel_size": k,
        "taps": k * k,
        "orbits": (radius + 1) * (radius + 2) // 2,
        **medians,
        "faster": medians["pytorch_s"] / medians["kernel_s"],
    }


def as_table(report: dict) -> Table:
    table = Table(title=f"{WIDTH}x{HEIGHT}, float32, {report['threads']} threads; {report['cpu']}")
    columns = ("channels", "kernel", "taps", "orbits", "PyTorch ms", "kernel ms", "times faster")
    for column in columns:
        table.add_column(column, justify="right")
    for row in report["rows"]:
        table.add_row(
            *(str(row["channels"]), str(row["kernel_size"]), str(row["taps"]), str(row["orbits"])),
            f"{1e3 * row['pytorch_s']:.1f}",
            f"{1e3 * row['kernel_s']:.1f}",
            f"{row['faster']:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
