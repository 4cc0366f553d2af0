"""``basicsr compare cost``: parameters, multiply-adds, latency and peak memory."""

import argparse

import torch
from rich.console import Console
from rich.table import Table

from esc_arch.archs import PRESETS
from esc_arch.compare import cost, report, results
from esc_arch.compare.measuring import DTYPES
from esc_arch.compare.published import PUBLISHED
from esc_arch.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    compared = [name for name in PRESETS if any(name == key[0] for key in PUBLISHED)]
    parser.add_argument(
        "--networks",
        nargs="+",
        default=compared,
        metavar="PRESET",
        help=f"default: {' '.join(compared)}",
    )
    parser.add_argument(
        "--scales", nargs="+", type=int, default=[4], metavar="N", help="default: 4"
    )
    parser.add_argument(
        "--output-size",
        default="HD",
        metavar="SIZE",
        help=f"{', '.join(cost.OUTPUT_SIZES)} or WIDTHxHEIGHT of the output (default: HD)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="default: a GPU where there is one",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: float32")
    parser.add_argument("--warm-up", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--runs", type=int, default=5, metavar="N", help="default: 5; 0 counts only"
    )
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="of a network (default: 600)"
    )
    parser.add_argument(
        "--name", default="cost", help="writes experiments/compare/NAME (default: cost)"
    )


def run(args: argparse.Namespace) -> int:
    size = cost.output_size(args.output_size)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = results.folder_of(args.name)
    found = results.read(folder)
    this_run = results.describe_run()
    with progress("measuring", len(args.networks) * len(args.scales), "networks") as advance:

        def keep(row: results.Row) -> None:
            results.add(found, "cost", [row], this_run)
            results.write(folder, found)
            advance(1)

        rows = cost.costs(
            args.networks,
            args.scales,
            size,
            device,
            args.dtype,
            max(1, args.warm_up),
            max(0, args.runs),
            args.timeout,
            keep,
        )
    Console().print(_as_table(rows))
    for path in report.write_report(folder):
        print(path)
    return 1 if any("error" in row for row in rows) else 0


def _as_table(rows: list[results.Row]) -> Table:
    table = Table(title="Cost")
    for column in ("network", "scale", "LR"):
        table.add_column(column)
    for column in ("parameters K", "multiply-adds G", "median ms", "fastest-slowest", "peak MB"):
        table.add_column(column, justify="right")
    for row in rows:
        known = {
            name: float(value) for name, value in row.items() if isinstance(value, int | float)
        }

        def cell(name: str, form: str, unit: float = 1, known: dict[str, float] = known) -> str:
            return format(known[name] / unit, form) if name in known else "-"

        table.add_row(
            str(row["network"]),
            f"x{row['scale']}",
            f"{row['width']}x{row['height']}",
            cell("parameters", ",.0f", 1e3),
            cell("multiply_adds", ",.1f", 1e9),
            cell("median_ms", ",.0f"),
            f"{cell('fastest_ms', ',.0f')}-{cell('slowest_ms', ',.0f')}",
            cell("peak_mb", ",.0f"),
        )
        if "error" in row:
            table.add_row("", "", "", f"[red]{row['error']}[/red]")
    return table
