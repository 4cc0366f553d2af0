"""``basicsr compare``: cost, quality and training of networks, and their report."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esc_arch.cli.commands import add_commands, add_device, device_of
from esc_arch.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from esc_arch.compare.candidates import Scale
    from esc_arch.compare.results import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    add_commands(parser, COMMANDS)


def _add_cost(parser: argparse.ArgumentParser) -> None:
    from esc_arch.archs.presets import PRESETS
    from esc_arch.compare.cost import DTYPES, OUTPUT_SIZES
    from esc_arch.compare.published import PUBLISHED

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
        help=f"{', '.join(OUTPUT_SIZES)} or WIDTHxHEIGHT of the output (default: HD)",
    )
    add_device(parser)
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
    parser.set_defaults(run=_cost)


def _cost(args: argparse.Namespace) -> int:
    from esc_arch import terminal
    from esc_arch.compare import cost, results
    from esc_arch.progress import progress

    size = cost.output_size(args.output_size)
    device = device_of(args.device)
    folder = results.folder_of(args.name)
    found = results.read(folder)
    results.require_writable(folder)
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
    terminal.console().print(_cost_table(rows))
    return _finish(folder) or int(any("error" in row for row in rows))


def _cost_table(rows: "list[Row]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("network", "scale", "LR", title="Cost")
    for column in ("parameters K", "multiply-adds G", "median ms", "fastest-slowest", "peak MB"):
        table.add_column(column, justify="right")
    for row in rows:

        def cell(name: str, form: str, unit: float = 1, row: "Row" = row) -> str:
            value = row.get(name)
            return format(value / unit, form) if isinstance(value, int | float) else "-"

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
            table.add_row("", "", "", Text(str(row["error"]), "red"))
    return table


def _add_quality(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Outputs are rounded to 8 bits and compared on the Y channel, without as many border "
        "pixels as the scale, rounded up. For the ESC family images are extended by reflection to "
        "whole windows first, as its published numbers are measured."
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        required=True,
        metavar="FILE",
        help="checkpoints, each of a network that is known by its parameters, or PRESET=FILE",
    )
    parser.add_argument(
        "--scales",
        "--scale",
        nargs="+",
        type=_scale,
        default=[],
        metavar="N",
        help="such as 2 3.5 6: a network for any scale is tested at each, others at their own "
        "(default: that of each checkpoint)",
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
    add_device(parser)
    parser.add_argument(
        "--name", default="quality", help="writes experiments/compare/NAME (default: quality)"
    )
    parser.set_defaults(run=_quality)


def _scale(text: str) -> "Scale":
    from esc_arch.upscale.settings import scale_factor

    try:
        value = scale_factor(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more; found {text}")
    return int(value) if value.is_integer() else value


def _quality(args: argparse.Namespace) -> int:
    from esc_arch.compare import quality, results
    from esc_arch.compare.candidates import read_candidates

    device = device_of(args.device)
    wanted = sorted(set(args.scales))
    texts = dict.fromkeys(args.weights)
    candidates = [c for text in texts for c in read_candidates(text, wanted)]
    scales = sorted({candidate.scale for candidate in candidates})
    names = dict.fromkeys(map(os.path.normpath, args.sets))
    test_sets = [quality.open_benchmark(args.data, n, s) for s in scales for n in names]
    for test_set in test_sets:
        if test_set.rule is not None:
            print(
                f"{test_set.name}: found no folder LR_bicubic/X{test_set.scale}: the LR images "
                f"are made from the HR images by {test_set.rule}."
            )
    folder = results.folder_of(args.name)
    results.read(folder)
    results.require_writable(folder)
    tested = quality.compare(candidates, test_sets, folder, device, results.describe_run())
    _print_means(tested.rows)
    return _finish(folder, tested.errors)


def _finish(folder: Path, errors: Sequence[object] = ()) -> int:
    """Write the report and print what went wrong; returns the exit code."""
    from esc_arch.compare.report import write_report

    for path in write_report(folder):
        print(path)
    for error in errors:
        print(f"basicsr: {error}", file=sys.stderr)
    return 1 if errors else 0


def _print_means(rows: "list[Row]") -> None:
    """A table of each network's mean over each set, with and without greyscale images."""
    from rich.table import Column, Table

    from esc_arch import terminal
    from esc_arch.compare.quality import without_greyscale
    from esc_arch.compare.series import series_of, set_means, short_weights

    title = "PSNR in dB / SSIM, Y channel; each image is in results.csv"
    right = [Column(name, justify="right") for name in ("mean", "without grey images")]
    names = (Column(name, overflow="fold") for name in ("network", "weights"))
    table = Table("set", "scale", *names, *right, title=title)
    short = short_weights(series_of(row) for row in rows)
    for scale in sorted({row["scale"] for row in rows}):
        of_scale = [row for row in rows if row["scale"] == scale]
        colour = set_means(without_greyscale(of_scale))
        lines = []
        for series, of_sets in set_means(of_scale).items():
            for name, mean in of_sets.items():
                some = colour.get(series, {}).get(name)
                beside = ""
                if some is not None and some.images < mean.images:
                    change = f"({(some.psnr or 0) - (mean.psnr or 0):+.2f} dB)"
                    beside = f"{some.psnr:.2f} / {some.ssim:.4f} {change}"
                whole = f"{mean.psnr:.2f} / {mean.ssim:.4f}"
                weights = short.get(series, "")
                lines.append((name, f"x{scale}", series.network, weights, whole, beside))
        sets = list(dict.fromkeys(row["set"] for row in of_scale))
        for name, *cells in sorted(lines, key=lambda line: sets.index(line[0])):
            table.add_row(name, *(cell or "" for cell in cells))
    terminal.console().print(table)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", required=True, metavar="PRESET")
    parser.add_argument(
        "--template",
        required=True,
        metavar="FILE",
        help="option file of training; its network is replaced and its schedule scaled",
    )
    parser.add_argument(
        "--name",
        required=True,
        help="writes experiments/compare/NAME; the same command again continues it",
    )
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, metavar="N", help="iterations of each network")
    length.add_argument(
        "--budget-minutes",
        type=float,
        metavar="M",
        help="time of each network, by its speed, which a short run measures first",
    )
    parser.add_argument(
        "--force_yml",
        nargs="+",
        default=[],
        metavar="KEY:KEY=VALUE",
        help="replace values of the template before its schedule is scaled",
    )
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from esc_arch.compare.plan import Request
    from esc_arch.compare.training import train

    force_yml = tuple(args.force_yml)
    lengths = args.steps, args.budget_minutes
    request = Request(tuple(args.networks), args.template, args.name, *lengths, force_yml)
    trained = train(request)
    for row in trained.rows:
        print(f"{row['network']}: {row['iterations']} iterations in {row['minutes']:.1f} minutes")
    if trained.tested.rows:
        _print_means(trained.tested.rows)
    return _finish(request.folder, [*trained.errors, *trained.tested.errors])


def _add_report(parser: argparse.ArgumentParser) -> None:
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
        "an earlier one with the same key (default: the one DIR itself)",
    )
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> None:
    from esc_arch.compare.report import merge_folders
    from esc_arch.compare.results import folder_of

    if not args.name and len(args.folders) > 1:
        raise UserError(
            f"expected --name NAME, the comparison to merge {len(args.folders)} folders into; "
            "found none. Add it."
        )
    into = folder_of(args.name) if args.name is not None else args.folders[0]
    merge_folders(args.folders, into)
    _finish(into)


COMMANDS = {
    "cost": (
        "Measure parameters, multiply-adds, latency and peak memory of networks.",
        _add_cost,
    ),
    "quality": (
        "Measure PSNR and SSIM of trained networks and of bicubic on benchmark sets.",
        _add_quality,
    ),
    "train": (
        "Train networks from scratch with the same data, schedule and steps or minutes; test them.",
        _add_train,
    ),
    "report": (
        "Write tables and pictures of one comparison, or merge several into one.",
        _add_report,
    ),
}
