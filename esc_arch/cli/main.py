"""The ``basicsr`` command: one sub-command per file of this folder."""

import argparse
import sys

from esc_arch.cli import data, nets, test, train
from esc_arch.errors import UserError
from esc_arch.version import __version__

COMMANDS = {"train": train, "test": test, "data": data, "nets": nets}


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        argv: arguments after the program's name; ``sys.argv[1:]`` when None.

    Returns:
        The exit code: 0; 2 for a mistake that the user can mend; 130 after Ctrl-C; what the
        sub-command returns otherwise, 1 where some of the work could not be done.
    """
    parser = argparse.ArgumentParser(
        prog="basicsr", description="Train, test and inspect super-resolution networks in BasicSR."
    )
    parser.add_argument("--version", action="version", version=f"esc-arch {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"basicsr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("basicsr: stopped by Ctrl-C", file=sys.stderr)
        return 130
