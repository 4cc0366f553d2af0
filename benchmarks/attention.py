"""Window attention by every back-end against the naive one and the machine's matrix product.

    python benchmarks/attention.py [--windows 8 16 32] [--json FILE]

A map of 256 x 256 pixels, 64 channels and four heads attends, in inference (forward) and in
training (forward and backward).  Each round times the matrix product and every back-end once.
The extra peak memory is that of the first call in a fresh process.
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

from esc_arch import native
from esc_arch.compare.measuring import DTYPES
from esc_arch.ops import window_attention
from esc_arch.ops.window_attention import flex

BACKENDS = ("naive", "sdpa", "sdpa_blocked", "flex", "native")


def main() -> None:
    if answers(prepare):
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--windows",
        nargs="+",
        type=int,
        default=[8, 16, 32],
        help="default: 8 16 32; the naive scores of 64 take 4 GB, several times in training",
    )
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=[b for b in BACKENDS if b != "flex"]
    )
    parser.add_argument("--side", type=int, default=256, help="of the map (default: 256)")
    parser.add_argument("--dim", type=int, default=64, help="channels (default: 64)")
    parser.add_argument("--heads", type=int, default=4, help="default: 4")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    args = parser.parse_args()
    rows = []
    for window in args.windows:
        for mode in ("forward", "forward and backward"):
            rows += measure(window, mode, args)
    report = {"device": args.device, "rounds": args.rounds, **description(), "rows": rows}
    Console(width=120).print(as_table(report))
    write_json(args.json, report)


def prepare(
    backend: str,
    mode: str,
    window: int,
    side: int,
    dim: int,
    heads: int,
    dtype: str,
    device: str,
) -> Callable[[], object]:
    """The attention of a random map."""
    attention = getattr(window_attention, backend)
    place = {"dtype": DTYPES[dtype], "device": device}
    qkv = torch.randn(1, side, side, 3 * dim, **place)
    table = torch.randn(heads, (2 * window - 1) ** 2, **place)
    upstream = torch.randn(1, side, side, dim, **place)

    def infer() -> None:
        with torch.inference_mode():
            attention.attend(qkv, attention.prepare_bias(table, window), window, heads)

    def train() -> None:
        leaves = qkv.detach().requires_grad_(), table.detach().requires_grad_()
        bias = attention.prepare_bias(leaves[1], window)
        attention.attend(leaves[0], bias, window, heads).backward(upstream)

    return infer if mode == "forward" else train


def works(backend: str, mode: str, dtype: str, device: str) -> bool:
    """Whether a back-end has this mode."""
    if backend == "native":
        return (dtype, device) == ("float32", "cpu") and native.available()
    if backend == "sdpa_blocked":
        return mode == "forward" and device == "cpu"
    return backend != "flex" or flex.available(device, mode != "forward")


def measure(window: int, mode: str, args: argparse.Namespace) -> list[dict]:
    ceiling = Ceiling(args.device, DTYPES[args.dtype])
    requests = [
        {"backend": backend, "mode": mode, "window": window, "side": args.side, "dim": args.dim}
        | {"heads": args.heads, "dtype": args.dtype, "device": args.device}
        for backend in args.backends
        if works(backend, mode, args.dtype, args.device)
    ]
    memory = [peak_mb(__file__, **request) for request in requests]
    functions = [prepare(**request) for request in requests]
    times = ceiling.beside(functions, args.rounds)
    tokens = (-(-args.side // window) * window) ** 2
    # Two products forward; with the backward pass, five more.
    operations = 2 * tokens * window**2 * args.dim * (2 if mode == "forward" else 7)
    rows = []
    for request, spent, peak in zip(requests, times, memory, strict=True):
        median_s = statistics.median(spent)
        rows.append(
            request
            | {
                "median_s": median_s,
                "fastest_s": min(spent),
                "slowest_s": max(spent),
                "faster_than_naive": statistics.median(times[0]) / median_s,
                "gemm_gflops": ceiling.gflops,
                "share_of_gemm": operations / 1e9 / median_s / ceiling.gflops,
                "extra_peak_mb": peak,
            }
        )
    return rows


def as_table(report: dict) -> Table:
    table = Table(
        title=f"{report['device']}, {report['threads']} threads; PyTorch {report['torch']}; "
        f"{report['cpu']}"
    )
    for column in ("window", "mode", "back-end"):
        table.add_column(column)
    for column in ("median ms", "fastest-slowest", "x naive", "share of GEMM", "extra MB"):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        peak = row["extra_peak_mb"]
        table.add_row(
            *(str(row["window"]), row["mode"], row["backend"]),
            f"{1e3 * row['median_s']:.1f}",
            f"{1e3 * row['fastest_s']:.1f}-{1e3 * row['slowest_s']:.1f}",
            f"{row['faster_than_naive']:.2f}",
            f"{row['share_of_gemm']:.1%}",
            "-" if peak is None else f"{peak:.0f}",
        )
    return table


if __name__ == "__main__":
    main()
