"""Window attention by every back-end against the naive one and the machine's matrix product.

    python benchmarks/attention.py [--windows 8 16 32] [--json FILE]

A map of 256 x 256 pixels, 64 channels and four heads attends, in inference (forward) and in
training (forward and backward).  Each round times the matrix product and every back-end once.
The extra peak memory is that of the first call in a fresh process.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from comparison import parser_of, show, spread
from fresh_process import answers, peak_mb
from timing import Ceiling

from esc_arch.compare.cost import DTYPES
from esc_arch.fast import kernels
from esc_arch.ops.attention import window_attention

# "kernel" is that of this package, the others are PyTorch's operations.
BACKENDS = ("naive", "sdpa", "flex", "kernel")


def main() -> None:
    if answers(prepare):
        return
    parser = parser_of(__doc__, rounds=5)
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
    args = parser.parse_args()
    rows = []
    for window in args.windows:
        for mode in ("forward", "forward and backward"):
            rows += measure(window, mode, args)
    texts = {
        "window": lambda row: str(row["window"]),
        "mode": lambda row: row["mode"],
        "back-end": lambda row: row["backend"],
    }
    numbers = {
        "median ms": lambda row: f"{1e3 * row['median_s']:.1f}",
        "fastest-slowest": lambda row: f"{1e3 * row['fastest_s']:.1f}-{1e3 * row['slowest_s']:.1f}",
        "x naive": lambda row: (
            f"{row['faster_than_naive']:.2f}" if "faster_than_naive" in row else ""
        ),
    }
    show(args, rows, texts, numbers)


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
    place = {"dtype": DTYPES[dtype], "device": device}
    qkv = torch.randn(1, side, side, 3 * dim, **place).permute(0, 3, 1, 2)
    table = torch.randn(heads, (2 * window - 1) ** 2, **place)
    upstream = torch.randn(1, side, side, dim, **place).permute(0, 3, 1, 2)

    def attend(qkv: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        if backend == "kernel":
            return kernels.attend(qkv, table, window)
        return window_attention(qkv, table, window, backend)

    def infer() -> None:
        with torch.inference_mode():
            attend(qkv, table)

    def train() -> None:
        leaves = qkv.detach().requires_grad_(), table.detach().requires_grad_()
        attend(*leaves).backward(upstream)

    return infer if mode == "forward" else train


def works(backend: str, mode: str, dtype: str, device: str) -> bool:
    """Whether a back-end has this mode."""
    if backend == "kernel":
        return (dtype, device) == ("float32", "cpu") and kernels.available()
    # Where PyTorch has no backward of it, flex would stand for sdpa.
    return backend != "flex" or device == "cuda" or mode == "forward"


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
        row = request | spread(spent)
        if requests[0]["backend"] == "naive":
            row["faster_than_naive"] = statistics.median(times[0]) / row["median_s"]
        rows.append(row | ceiling.share(operations, row["median_s"]) | {"extra_peak_mb": peak})
    return rows


if __name__ == "__main__":
    main()
