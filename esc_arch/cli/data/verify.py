"""``basicsr data verify``: finds what training would stumble over."""

import argparse
import itertools

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from esc_arch.cli.data.jobs import add_jobs
from esc_arch.data.check import Report, verify
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
        report = verify(args.path, args.jobs, args.lq, args.scale)
    _print(report)
    return 1 if report.problems else 0


def _print(report: Report) -> None:
    for kind, group in itertools.groupby(report.problems, lambda problem: problem.kind):
        problems = list(group)
        for problem in problems[:_SHOWN]:
            print(f"problem: {problem}")
        if len(problems) > _SHOWN:
            print(f"problem: {len(problems) - _SHOWN} more of this kind ({kind})")
    duplicates = [names for done in report.sets for names in done.duplicates]
    for names in duplicates[:_SHOWN]:
        print(f"note: the same pixels: {listed(names, _SHOWN_NAMES)}")
    if len(duplicates) > _SHOWN:
        print(f"note: {len(duplicates) - _SHOWN} more groups of the same pixels")
    table = Table()
    table.add_column("checked", overflow="fold")
    for column in ("images", "size", "problems"):
        table.add_column(column, justify="right")
    for row in report.sets:
        number = sum(finding.number for finding in row.findings)
        table.add_row(row.name, str(row.images), decimal(row.bytes), str(number))
    for name, findings in report.pairs.items():
        table.add_row(name, "", "", str(sum(finding.number for finding in findings)))
    Console().print(table)
