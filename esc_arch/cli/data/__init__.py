"""``basicsr data``: one sub-command per file of this folder."""

import argparse

from esc_arch.cli.data import download, lmdb, prepare, stats, verify

HELP = "Prepare, pack, check, measure and download training and test images."
COMMANDS = {
    "prepare": prepare,
    "lmdb": lmdb,
    "verify": verify,
    "stats": stats,
    "download": download,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run_data=module.run)


def run(args: argparse.Namespace) -> int | None:
    return args.run_data(args)
