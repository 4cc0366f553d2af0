"""Inference of whole images against the naive attention and the machine's matrix product.

    python benchmarks/inference.py [--networks esc esc_fp ...] [--sizes 320x180 ...] [--json FILE]

Each round times the matrix product (five times) and every network (once) with its own attention
and with the naive one.  The share is (2 x multiply-adds / median seconds) / (median GFLOP/s of
the product); multiply-adds are counted as the papers do.  The extra peak memory is what the
first inference in a fresh process adds: on a CPU to its resident memory, on a GPU to what is
allocated.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from description import description
from fresh_process import answers, peak_mb, write_json
from rich.console import Console
from rich.table import Table
from timing import Ceiling

import esc_arch
from esc_arch.compare import flops
from esc_arch.compare.measuring import DTYPES
from esc_arch.compare.whole_windows import WholeWindows

ESC = ("esc", "esc_light", "esc_fp", "esc_real")


def main() -> None:
    if answers(prepare):
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=ESC, metavar="PRESET")
    parser.add_argument("--scale", type=int, default=4, help="default: 4")
    parser.add_argument(
        "--sizes", nargs="+", default=["320x180"], metavar="WxH", help="LR (default: 320x180)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--no-naive", action="store_true", help="leave the naive attention out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    args = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes]
    rows = []
    for dtype in args.dtypes:
        rows += measure(args.networks, args.scale, sizes, dtype, args)
    report = {"device": args.device, "scale": args.scale, "rounds": args.rounds}
    report |= {**description(), "rows": rows}
    Console(width=120).print(as_table(report))
    write_json(args.json, report)


def prepare(
    network: str, scale: int, attn_type: str, width: int, height: int, dtype: str, device: str
) -> Callable[[], object]:
    """The inference of a random image."""
    options = {} if attn_type == "auto" else {"attn_type": attn_type}
    model = WholeWindows(esc_arch.create(network, scale, **options).eval())
    model = model.to(device, DTYPES[dtype])
    image = torch.rand(1, 3, height, width).to(device, DTYPES[dtype])

    def infer() -> None:
        with torch.inference_mode():
            model(image)

    return infer


def measure(networks: list, scale: int, sizes: list, dtype: str, args: argparse.Namespace) -> list:
    ceiling = Ceiling(args.device, DTYPES[dtype])
    requests = [
        {"network": network, "scale": scale, "attn_type": attn_type, "width": width}
        | {"height": height, "dtype": dtype, "device": args.device}
        for width, height in sizes
        for network in networks
        for attn_type in ("auto", "naive")
        if attn_type == "auto" or (network.startswith("esc") and not args.no_naive)
    ]
    memory = [peak_mb(__file__, **request) for request in requests]
    functions = [prepare(**request) for request in requests]
    times = ceiling.beside(functions, args.rounds)
    rows = []
    for request, spent, peak in zip(requests, times, memory, strict=True):
        model = esc_arch.create(request["network"], scale).eval()
        count = flops.multiply_adds(model, request["height"], request["width"])
        median_s = statistics.median(spent)
        rows.append(
            request
            | {
                "multiply_adds": count,
                "median_s": median_s,
                "fastest_s": min(spent),
                "slowest_s": max(spent),
                "gemm_gflops": ceiling.gflops,
                "share_of_gemm": 2 * count / 1e9 / median_s / ceiling.gflops,
                "extra_peak_mb": peak,
            }
        )
    return rows


def as_table(report: dict) -> Table:
    table = Table(
        title=f"x{report['scale']}, {report['device']}, {report['threads']} threads; "
        f"PyTorch {report['torch']}; {report['cpu']}"
    )
    for column in ("network", "attention", "LR", "dtype"):
        table.add_column(column)
    for column in ("GMAC", "median s", "fastest-slowest", "share of GEMM", "extra MB"):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        peak = row["extra_peak_mb"]
        table.add_row(
            *(row["network"], row["attn_type"], f"{row['width']}x{row['height']}", row["dtype"]),
            f"{row['multiply_adds'] / 1e9:.1f}",
            f"{row['median_s']:.3f}",
            f"{row['fastest_s']:.3f}-{row['slowest_s']:.3f}",
            f"{row['share_of_gemm']:.1%}",
            "-" if peak is None else f"{peak:.0f}",
        )
    return table


if __name__ == "__main__":
    main()
