"""ESC's inference on a CPU against the machine's own matrix product.

    python benchmarks/esc_cpu.py [--json FILE]

An image of 320 x 180 pixels is upscaled four times in float32 on all cores.  Each round
times the matrix product (five times) and every network (once), so that a machine whose
speed changes changes both.  The share is (2 x multiply-adds / median seconds) / (median GFLOP/s of
the product).  Multiply-adds are PyTorch's count of convolutions and matrix products,
with the naive attention: 0.3% below the published count.  The extra peak memory is what
the first inference in a fresh process adds to its resident memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from description import description
from rich.console import Console
from rich.table import Table
from timing import seconds
from torch.utils.flop_counter import FlopCounterMode

import esc_arch
from esc_arch.machine import extra_peak_bytes

NETWORKS = ("esc", "esc_light", "esc_fp", "esc_real")
SCALE = 4
HEIGHT, WIDTH = 180, 320
MATRIX = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="default: 9")
    parser.add_argument("--attn-type", default="auto", help="attention back-end (default: auto)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    parser.add_argument("--memory-of", choices=NETWORKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(extra_peak_mb(args.memory_of, args.attn_type))
        return
    report = measure(args.rounds, args.attn_type)
    Console(width=100).print(as_table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(rounds: int, attn_type: str) -> dict:
    """All numbers of the benchmark; seconds and GFLOP/s are medians over the rounds."""
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    networks = {name: esc_arch.create(name, SCALE, attn_type=attn_type).eval() for name in NETWORKS}
    a, b = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
    product_s: list[float] = []
    network_s: dict[str, list[float]] = {name: [] for name in NETWORKS}
    with torch.inference_mode():
        a @ b
        for network in networks.values():
            network(image)
        for _ in range(rounds):
            product_s += [seconds(lambda: a @ b) for _ in range(5)]
            for name, network in networks.items():
                network_s[name].append(seconds(lambda network=network: network(image)))
    peak = 2 * MATRIX**3 / statistics.median(product_s) / 1e9
    rows = []
    for name in NETWORKS:
        gmacs = multiply_adds(name) / 1e9
        median_s = statistics.median(network_s[name])
        rows.append(
            {
                "network": name,
                "gmacs": round(gmacs, 2),
                "median_s": round(median_s, 3),
                "fastest_s": round(min(network_s[name]), 3),
                "slowest_s": round(max(network_s[name]), 3),
                "share_of_peak": round(2 * gmacs / median_s / peak, 4),
                "extra_peak_mb": fresh_process_peak_mb(name, attn_type),
            }
        )
    return {
        "image": [HEIGHT, WIDTH],
        "scale": SCALE,
        "dtype": "float32",
        "attn_type": attn_type,
        "rounds": rounds,
        "gemm_gflops": round(peak, 1),
        **description(),
        "rows": rows,
    }


def multiply_adds(name: str) -> int:
    with torch.device("meta"):
        network = esc_arch.create(name, SCALE, attn_type="naive").eval()
        image = torch.empty(1, 3, HEIGHT, WIDTH)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() // 2


def fresh_process_peak_mb(name: str, attn_type: str) -> int:
    command = [sys.executable, __file__, "--memory-of", name, "--attn-type", attn_type]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def extra_peak_mb(name: str, attn_type: str) -> int:
    """What one inference adds to this process's resident memory, in 10**6 bytes."""
    network = esc_arch.create(name, SCALE, attn_type=attn_type).eval()
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    with torch.inference_mode():
        return round(extra_peak_bytes(lambda: network(image)) / 1e6)


def as_table(report: dict) -> Table:
    table = Table(
        title=f"x{SCALE}, {WIDTH}x{HEIGHT}, float32, {report['threads']} threads; matrix product "
        f"{report['gemm_gflops']} GFLOP/s; PyTorch {report['torch']}; {report['cpu']}"
    )
    table.add_column("network")
    for column in ("GMAC", "median s", "fastest s", "slowest s", "share of peak", "extra MB"):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        table.add_row(
            row["network"],
            f"{row['gmacs']:.1f}",
            f"{row['median_s']:.2f}",
            f"{row['fastest_s']:.2f}",
            f"{row['slowest_s']:.2f}",
            f"{row['share_of_peak']:.1%}",
            str(row["extra_peak_mb"]),
        )
    return table


if __name__ == "__main__":
    main()
