"""What the programs share that hold networks or attention against the machine's matrix product."""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from description import description
from fresh_process import write_json
from rich.console import Console
from rich.table import Table

# The title of a column, and what it says of a row.
Columns = dict[str, Callable[[dict], str]]


def parser_of(doc: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with the arguments that all have.

    Args:
        doc: of the program; its first line is shown.
        rounds: the default.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    return parser


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The part of a row that tells the times of all rounds."""
    return {
        "median_s": statistics.median(seconds),
        "fastest_s": min(seconds),
        "slowest_s": max(seconds),
    }


def show(
    args: argparse.Namespace, rows: list[dict], texts: Columns, numbers: Columns, **more: object
) -> None:
    """Print the rows as a table and write them where the user asked for it.

    Args:
        rows: each with ``share_of_gemm`` and ``extra_peak_mb``, which stand last.
        texts, numbers: the columns before them, left and right aligned.
        more: what else the numbers depend on, for the JSON file.
    """
    report = {"device": args.device, **more, "rounds": args.rounds, **description(), "rows": rows}
    numbers = numbers | {
        "share of GEMM": lambda row: f"{row['share_of_gemm']:.1%}",
        "extra MB": lambda row: _megabytes(row["extra_peak_mb"]),
    }
    table = Table(
        title=f"{report['device']}, {report['threads']} threads; PyTorch {report['torch']}; "
        f"{report['cpu']}"
    )
    for title in texts:
        table.add_column(title)
    for title in numbers:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*(text_of(row) for text_of in (texts | numbers).values()))
    Console(width=120).print(table)
    write_json(args.json, report)


def _megabytes(peak: float | None) -> str:
    return "-" if peak is None else f"{peak:.0f}"
