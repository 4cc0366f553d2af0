"""ESC+LTE on a CPU: time beside the straightforward form, and memory of a large result.

    python benchmarks/any_scale.py [--scales 2 3.3 4] [--json FILE]
    python benchmarks/any_scale.py --scales --megapixels 60 [--json FILE]

The straightforward form, that of ``tests/naive_lte.py``, answers all queries at once and gathers
the four neighbours one after another; both use the same encoder, and the encoder's share is in both
times.  Memory is what a fresh process takes on top at its peak, the float32 result included.
"""

import argparse
import statistics
import sys
from math import sqrt
from pathlib import Path

import torch
from description import description
from fresh_process import answers, peak_mb, write_json
from rich.console import Console
from rich.table import Table
from timing import Ceiling

import esc_arch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests import naive_lte


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=128, help="of the image (default: 128)")
    parser.add_argument("--scales", type=float, nargs="*", default=[2, 3.3, 4])
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--megapixels", type=float, default=0, help="of the result whose memory is measured"
    )
    parser.add_argument("--memory-side", type=int, default=1000, help="of its image; default: 1000")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    network = esc_arch.create("esc_lte").eval()
    image = torch.rand(1, 3, args.side, args.side)
    rows = []
    with torch.inference_mode():
        for scale in args.scales:
            size = (round(scale * args.side),) * 2
            ceiling = Ceiling("cpu", torch.float32)
            forms = (
                lambda size=size: network(image, size=size),
                lambda size=size: naive_lte.enlarged(network, image, size),
                lambda: network.encoder(image),
            )
            ours, plain, encoder = map(statistics.median, ceiling.beside(forms, args.rounds))
            rows.append(
                {
                    "scale": scale,
                    "ours_s": ours,
                    "straightforward_s": plain,
                    "encoder_s": encoder,
                    "ratio": plain / ours,
                    "gemm_gflops": ceiling.gflops,
                }
            )
    memory = None
    if args.megapixels:
        side = round(sqrt(args.megapixels * 1e6))
        memory = {
            "image": args.memory_side,
            "result": side,
            "peak_mb": peak_mb(__file__, device="cpu", image=args.memory_side, result=side),
        }
    table = Table("scale", "ours s", "straightforward s", "ratio", "encoder s")
    for row in rows:
        table.add_row(
            f"{row['scale']:g}",
            *(f"{row[k]:.2f}" for k in ("ours_s", "straightforward_s", "ratio", "encoder_s")),
        )
    Console().print(table)
    if memory:
        Console().print(memory)
    write_json(args.json, {**description(), "side": args.side, "rows": rows, "memory": memory})


def prepare(device: str, image: int, result: int):
    network = esc_arch.create("esc_lte").eval().requires_grad_(False)
    x = torch.rand(1, 3, image, image)

    def enlarge():
        with torch.inference_mode():
            network(x, size=(result, result))

    return enlarge


if __name__ == "__main__" and not answers(prepare):
    main()
