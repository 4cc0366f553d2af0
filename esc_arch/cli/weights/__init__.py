"""``basicsr weights``: one sub-command per file of this folder."""

import argparse

from esc_arch.cli.commands import add_commands

COMMANDS = {
    "convert": "Convert a checkpoint: .pth to .safetensors and back, to float16, one of its sets.",
    "show": "Say what a checkpoint is: network, scale, arguments, size, metadata, checksum.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    add_commands(parser, __name__, COMMANDS)
