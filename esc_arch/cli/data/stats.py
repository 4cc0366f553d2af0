"""``basicsr data stats``: what the images of a set are like."""

import argparse
import sys

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from esc_arch.cli.data.jobs import add_jobs
from esc_arch.data.statistics import Extent, SetStatistics, TooSmall, measure
from esc_arch.errors import UserError

_GT_SIZES = (128, 192, 256)
# Columns of sets that fit beside each other on 80 characters.
_BESIDE = 3
_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a folder of images, an LMDB, or what `basicsr data prepare` made",
    )
    parser.add_argument(
        "--gt-size",
        type=int,
        nargs="+",
        default=_GT_SIZES,
        metavar="N",
        help=f"sides of HR crops to try (default: {' '.join(map(str, _GT_SIZES))})",
    )
    add_jobs(parser)


def run(args: argparse.Namespace) -> int:
    """Measure.

    Returns:
        The exit code: 0; 1 when an image could not be read.
    """
    if min(args.gt_size) < 1:
        raise UserError(f"--gt-size: expected 1 or more; found {min(args.gt_size)}.")
    sets = measure(args.path, args.gt_size, args.jobs)
    console = Console()
    for start in range(0, len(sets), _BESIDE):
        console.print(_table(sets[start : start + _BESIDE]))
    unreadable = [reason for one in sets for reason in one.unreadable]
    for reason in unreadable:
        print(f"left out: {reason}", file=sys.stderr)
    return 1 if unreadable else 0


def _table(sets: list[SetStatistics]) -> Table:
    table = Table(show_lines=True)
    table.add_column("", no_wrap=True)
    for one in sets:
        table.add_column(one.name, overflow="fold")
    table.add_row("images", *(str(one.images) for one in sets))
    table.add_row("files", *(decimal(one.bytes) for one in sets))
    table.add_row("width min/med/max", *(_extent(one.width) for one in sets))
    table.add_row("height min/med/max", *(_extent(one.height) for one in sets))
    table.add_row("smallest", *("{}, {}x{}".format(*one.smallest) for one in sets))
    table.add_row("kinds", *("\n".join(f"{k}: {n}" for k, n in one.kinds.items()) for one in sets))
    table.add_row("mean R G B", *(" ".join(f"{m:.4f}" for m in one.mean) for one in sets))
    for row in zip(*(one.too_small for one in sets), strict=True):
        table.add_row(f"gt_size {row[0].gt_size}", *map(_fit, row))
    return table


def _extent(extent: Extent) -> str:
    return f"{extent.smallest}/{extent.median:g}/{extent.largest}"


def _fit(small: TooSmall) -> str:
    if not small.names:
        return "fits"
    more = f" and {len(small.names) - _SHOWN} more" if len(small.names) > _SHOWN else ""
    return f"{len(small.names)} too small: {', '.join(small.names[:_SHOWN])}{more}"
