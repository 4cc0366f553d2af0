"""``basicsr compare quality``: PSNR and SSIM of networks and of bicubic on test sets."""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from esc_arch.compare import quality, report, results
from esc_arch.compare.contenders import read_contender
from esc_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Outputs are rounded to 8 bits and compared on the Y channel, without as many border "
        "pixels as the scale. For the ESC family images are extended by reflection to whole "
        "windows first, as its published numbers are measured."
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        required=True,
        metavar="FILE",
        help="checkpoints, each of a network that it tells itself, or PRESET=FILE",
    )
    parser.add_argument(
        "--scale", type=int, metavar="N", help="of the checkpoints (default: what each tells)"
    )
    parser.add_argument(
        "--sets", nargs="+", default=["Set5"], metavar="SET", help="folders of DATA (default: Set5)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("datasets"),
        metavar="DATA",
        help="holds SET/HR/*.png and SET/LR_bicubic/X{scale}/*x{scale}.png (default: datasets)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="default: a GPU where there is one",
    )
    parser.add_argument(
        "--name", default="quality", help="writes experiments/compare/NAME (default: quality)"
    )


def run(args: argparse.Namespace) -> int:
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: expected a GPU that PyTorch can use; found none.")
    contenders = [read_contender(text, args.scale) for text in dict.fromkeys(args.weights)]
    scales = sorted({contender.scale for contender in contenders})
    names = dict.fromkeys(args.sets)
    test_sets = [quality.open_benchmark(args.data, n, s) for s in scales for n in names]
    for test_set in test_sets:
        if test_set.is_made:
            print(
                f"{test_set.name}: found no folder LR_bicubic/X{test_set.scale}: the LR images "
                "are made from the HR images by MATLAB's bicubic rule."
            )
    folder = results.folder_of(args.name)
    tested = quality.compare(contenders, test_sets, folder, device, results.describe_run())
    print_means(tested.rows)
    for path in report.write_report(folder):
        print(path)
    for error in tested.errors:
        print(f"basicsr: {error}", file=sys.stderr)
    return 1 if tested.errors else 0


def print_means(rows: list[results.Row]) -> None:
    """A table of each network's mean over each set, with and without greyscale images."""
    table = Table(title="PSNR in dB / SSIM, Y channel; each image is in results.csv")
    for column in ("set", "scale", "network", "weights", "mean", "without grey images"):
        table.add_column(column, justify="right" if column.startswith(("mean", "wit")) else "left")
    for group in quality.by_set(rows):
        first = group[0]
        colour = quality.without_greyscale(group)
        table.add_row(
            str(first["set"]),
            f"x{first['scale']}",
            str(first["network"]),
            str(first["weights"] or ""),
            _cell(group),
            _cell(colour, group) if 0 < len(colour) < len(group) else "",
        )
    Console().print(table)


def _cell(rows: list[results.Row], beside: list[results.Row] | None = None) -> str:
    psnr, ssim = quality.means(rows)
    change = f" ({psnr - quality.means(beside)[0]:+.2f} dB)" if beside else ""
    return f"{psnr:.2f} / {ssim:.4f}{change}"
