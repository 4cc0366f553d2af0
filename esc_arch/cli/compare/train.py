"""``basicsr compare train``: several networks from scratch under one option template."""

import argparse
import sys

from esc_arch.cli.compare.quality import print_means
from esc_arch.compare import report
from esc_arch.compare.training import train
from esc_arch.compare.training_plan import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    request = Request(
        tuple(args.networks),
        args.template,
        args.name,
        args.steps,
        args.budget_minutes,
        tuple(args.force_yml),
    )
    trained = train(request)
    for row in trained.rows:
        print(f"{row['network']}: {row['iterations']} iterations in {row['minutes']:.1f} minutes")
    if trained.tested.rows:
        print_means(trained.tested.rows)
    for path in report.write_report(request.folder):
        print(path)
    errors = [*trained.errors, *trained.tested.errors]
    for error in errors:
        print(f"basicsr: {error}", file=sys.stderr)
    return 1 if errors else 0
