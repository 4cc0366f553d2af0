"""``basicsr runs``: the trainings in a folder of experiments."""

import argparse
import json
import os
import sys
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from esc_arch import terminal
from esc_arch.errors import UserError
from esc_arch.training.experiments import Experiment, find_experiments

# Of a table that goes into a file or another program.
_PLAIN_WIDTH = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="?",
        default="experiments",
        metavar="FOLDER",
        help="folder of experiments, or one experiment (default: experiments)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def run(args: argparse.Namespace) -> None:
    try:
        found = find_experiments(Path(os.path.expanduser(args.folder)))
    except OSError as error:
        raise UserError(
            f"{args.folder}: expected a folder of experiments; found: {error.strerror}. Name the "
            "folder that `basicsr train` writes to, which is called experiments."
        ) from error
    if args.json:
        json.dump([experiment.facts() for experiment in found], sys.stdout, indent=1)
        print()
        return
    _print(args.folder, found)


def _print(folder: str, found: list[Experiment]) -> None:
    console = terminal.console()
    if not console.is_terminal:
        console = terminal.console(width=_PLAIN_WIDTH)
    if not found:
        console.print(Text(f"{folder}: no experiments"))
        return
    table = Table()
    for name in ("experiment", "status", "iteration", "best", "it/s", "last written", "resumes"):
        is_number = name in ("iteration", "it/s", "resumes")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for experiment in found:
        table.add_row(*(Text(cell) for cell in _cells(experiment)))
    console.print(table)
    for experiment in found:
        for problem in experiment.problems:
            console.print(Text(f"{experiment.name}: {problem}"), soft_wrap=True)
    if any(e.resume is not None and not e.is_verified for e in found):
        console.print("(size): too large to read all; their sizes are right.")


def _cells(experiment: Experiment) -> tuple[str, ...]:
    total = "?" if experiment.total is None else f"{experiment.total:,}"
    best, speed, written = experiment.main_result, experiment.iterations_per_s, experiment.written
    resumes = "-"
    if experiment.resume_iteration is not None:
        resumes = f"{experiment.resume_iteration:,}"
        resumes += "" if experiment.is_verified else " (size)"
    return (
        experiment.name,
        experiment.status,
        f"{experiment.iteration:,}/{total}",
        f"{best.metric} {best.value:.4f} @ {best.iteration:,} ({best.dataset})" if best else "-",
        "-" if speed is None else f"{speed:.3g}",
        "-" if written is None else f"{datetime.fromtimestamp(written):%Y-%m-%d %H:%M}",
        resumes,
    )
