"""``basicsr compare report``: the tables and pictures of what was measured."""

import argparse
from pathlib import Path

from esc_arch.compare import results
from esc_arch.compare.report import merge_folders, write_report
from esc_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folders, and where to merge them."""
    parser.add_argument(
        "folders",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="a comparison's folder, e.g. experiments/compare/NAME",
    )
    parser.add_argument(
        "--name",
        help="add the rows of every DIR to experiments/compare/NAME; a later DIR's row replaces "
        "an earlier one that tells the same (default: the one DIR itself)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the report and say where."""
    if not args.name and len(args.folders) > 1:
        raise UserError(
            f"expected --name NAME, the comparison to merge {len(args.folders)} folders into; "
            "found none. Add it."
        )
    into = results.folder_of(args.name) if args.name is not None else args.folders[0]
    merge_folders(args.folders, into)
    for path in write_report(into):
        print(path)
