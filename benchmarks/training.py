"""Training steps of ESC against the naive attention and the machine's matrix product.

    python benchmarks/training.py [--networks esc] [--batch 4] [--json FILE]

A step is the forward pass, the L1 loss and the backward pass of a batch of 64x64 LR patches; the
paper's batch is 64.  The ratio is that of the whole step to its forward pass.  The extra peak
memory is that of the first step in a fresh process.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from comparison import parser_of, show
from fresh_process import answers, peak_mb
from timing import Ceiling

import esc_arch
from esc_arch.compare import flops
from esc_arch.compare.cost import DTYPES

# Of the multiply-adds of the forward pass: the backward pass has two products for each.
OPERATIONS = 2 * 3


def main() -> None:
    if answers(prepare):
        return
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--networks", nargs="+", default=["esc"], metavar="PRESET")
    parser.add_argument("--scale", type=int, default=4, help="default: 4")
    parser.add_argument("--batch", type=int, default=4, help="default: 4")
    parser.add_argument("--patch", type=int, default=64, help="side of LR (default: 64)")
    parser.add_argument(
        "--attn-types", nargs="+", default=["auto", "naive"], help="default: auto naive"
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=DTYPES,
        default=["float32"],
        help="others than float32 by autocast (default: float32)",
    )
    args = parser.parse_args()
    rows = []
    for dtype in args.dtypes:
        rows += measure(dtype, args)
    texts = {
        "network": lambda row: row["network"],
        "attention": lambda row: row["attn_type"],
        "batch": lambda row: str(row["batch"]),
        "dtype": lambda row: row["dtype"],
    }
    numbers = {
        "forward s": lambda row: f"{row['forward_s']:.3f}",
        "step s": lambda row: f"{row['step_s']:.3f}",
        "step/forward": lambda row: f"{row['step_over_forward']:.2f}",
        "steps/s": lambda row: f"{row['steps_per_s']:.3f}",
    }
    show(args, rows, texts, numbers)


def prepare(
    network: str,
    scale: int,
    attn_type: str,
    batch: int,
    patch: int,
    dtype: str,
    device: str,
    backward: bool = True,
) -> Callable[[], object]:
    """A training step, or its forward pass, of random patches."""
    model = esc_arch.create(network, scale, attn_type=attn_type).to(device)
    lq = torch.rand(batch, 3, patch, patch, device=device)
    gt = torch.rand(batch, 3, scale * patch, scale * patch, device=device)
    autocast = torch.autocast(device, DTYPES[dtype], enabled=dtype != "float32")

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with autocast:
            loss = F.l1_loss(model(lq), gt)
        if backward:
            loss.backward()

    return step


def measure(dtype: str, args: argparse.Namespace) -> list[dict]:
    ceiling = Ceiling(args.device, DTYPES[dtype])
    requests = [
        {"network": network, "scale": args.scale, "attn_type": attn_type, "batch": args.batch}
        | {"patch": args.patch, "dtype": dtype, "device": args.device}
        for network in args.networks
        for attn_type in args.attn_types
    ]
    memory = [peak_mb(__file__, **request) for request in requests]
    functions = [
        prepare(**request, backward=backward) for request in requests for backward in (False, True)
    ]
    times = ceiling.beside(functions, args.rounds)
    rows = []
    for i, (request, peak) in enumerate(zip(requests, memory, strict=True)):
        forward_s, step_s = (statistics.median(times[2 * i + k]) for k in range(2))
        model = esc_arch.create(request["network"], args.scale)
        count = args.batch * flops.multiply_adds(model, args.patch, args.patch)
        rows.append(
            request
            | {
                "forward_s": forward_s,
                "step_s": step_s,
                "steps_per_s": 1 / step_s,
                "step_over_forward": step_s / forward_s,
            }
            | ceiling.share(OPERATIONS * count, step_s)
            | {"extra_peak_mb": peak}
        )
    return rows


if __name__ == "__main__":
    main()
