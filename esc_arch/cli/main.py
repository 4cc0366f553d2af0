"""The ``basicsr`` command: one sub-command per file of this folder."""

import argparse
import sys

from esc_arch.cli.commands import add_commands
from esc_arch.errors import UserError
from esc_arch.version import __version__

COMMANDS = {
    "train": "Train a network by an option file.",
    "test": "Test a network by an option file.",
    "upscale": "Enlarge image files: a photo, a folder of them.",
    "compare": "Compare networks: cost, quality, training, in one harness and one report.",
    "data": "Prepare, pack, check, measure and download training and test images.",
    "weights": "Convert checkpoints, and say what they are.",
    "export": "Write a trained network as an ONNX or .pt2 file, checked against PyTorch.",
    "nets": "List the registered networks, with presets and parameter counts.",
}


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
    add_commands(parser, "esc_arch.cli", COMMANDS)
    try:
        args = parser.parse_args(argv)
        return args.run(args) or 0
    except UserError as error:
        print(f"basicsr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("basicsr: stopped by Ctrl-C", file=sys.stderr)
        return 130
