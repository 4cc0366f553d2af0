"""Inference of whole images against the naive attention and the machine's matrix product.

    python benchmarks/inference.py [--networks esc esc_fp ...] [--sizes 320x180 ...] [--json FILE]

Each round times the matrix product (five times) and every network (once) with its own attention
and with the naive one.  The share is (2 x multiply-adds / median seconds) / (median GFLOP/s of
the product); multiply-adds are counted as the papers do.  The extra peak memory is what the
first inference in a fresh process adds: on a CPU to its resident memory, on a GPU to what is
allocated.
"""

import argparse
from collections.abc import Callable

import torch
from comparison import parser_of, show, spread
from fresh_process import answers, peak_mb
from timing import Ceiling

import esc_arch
from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.compare import flops
from esc_arch.compare.cost import DTYPES

ESC = ("esc", "esc_light", "esc_fp", "esc_real")


def main() -> None:
    if answers(prepare):
        return
    parser = parser_of(__doc__, rounds=7)
    parser.add_argument("--networks", nargs="+", default=ESC, metavar="PRESET")
    parser.add_argument("--scale", type=int, default=4, help="default: 4")
    parser.add_argument(
        "--sizes", nargs="+", default=["320x180"], metavar="WxH", help="LR (default: 320x180)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--no-naive", action="store_true", help="leave the naive attention out")
    args = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes]
    rows = []
    for dtype in args.dtypes:
        rows += measure(args.networks, args.scale, sizes, dtype, args)
    texts = {
        "network": lambda row: f"{row['network']} x{row['scale']}",
        "attention": lambda row: row["attn_type"],
        "LR": lambda row: f"{row['width']}x{row['height']}",
        "dtype": lambda row: row["dtype"],
    }
    numbers = {
        "GMAC": lambda row: f"{row['multiply_adds'] / 1e9:.1f}",
        "median s": lambda row: f"{row['median_s']:.3f}",
        "fastest-slowest": lambda row: f"{row['fastest_s']:.3f}-{row['slowest_s']:.3f}",
    }
    show(args, rows, texts, numbers, scale=args.scale)


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
        row = request | {"multiply_adds": count} | spread(spent)
        rows.append(row | ceiling.share(2 * count, row["median_s"]) | {"extra_peak_mb": peak})
    return rows


if __name__ == "__main__":
    main()
