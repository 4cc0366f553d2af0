"""``basicsr data verify``: finds what training would stumble over."""

import argparse
import itertools

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from esc_arch.cli.data.jobs import add_jobs
from esc_arch.data.check import Report, verify, verify_pair
from esc_arch.errors import UserError, listed

# Of one kind; the others are counted.
_SHOWN = 20
_SHOWN_NAMES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a folder of images, an LMDB, or what `basicsr data prepare` made",
    )
    parser.add_argument(
        "--lq", metavar="LR_PATH", help="LR images of those in PATH, NAME.png or NAMEx2.png"
    )
    parser.add_argument("--scale", type=int, metavar="N", help="of the LR images")
    add_jobs(parser)


def run(args: argparse.Namespace) -> int:
    if (args.lq is None) != (args.scale is None):
        raise UserError("basicsr data verify: expected --lq and --scale together; found one.")
    if args.lq is None:
        report = verify(args.path, args.jobs)
    elif args.scale < 1:
        raise UserError(f"--scale: expected 1 or more; found {args.scale}.")
    else:
        report = verify_pair(args.path, args.lq, args.scale, args.jobs)
    _print(report)
    return 1 if report.problems else 0


def _print(report: Report) -> None:
    for kind, group in itertools.groupby(report.problems, lambda problem: problem.kind):
        problems = list(group)
        for problem in problems[:_SHOWN]:
            print(f"problem: {problem}")
        if len(problems) > _SHOWN:
            print(f"problem: {len(problems) - _SHOWN} more of this kind ({kind})")
    for names in report.duplicates[:_SHOWN]:
        print(f"note: the same pixels: {listed(names, _SHOWN_NAMES)}")
    if len(report.duplicates) > _SHOWN:
        print(f"note: {len(report.duplicates) - _SHOWN} more groups of the same pixels")
    table = Table()
    table.add_column("checked", overflow="fold")
    for column in ("images", "size", "problems"):
        table.add_column(column, justify="right")
    for row in report.sets:
        table.add_row(row.name, str(row.images), decimal(row.bytes), str(row.problems))
    for name, number in report.pairs:
        table.add_row(name, "", "", str(number))
    Console().print(table)
