"""``basicsr data``: one sub-command per file of this folder."""

import argparse

from esc_arch.cli.commands import add_commands

COMMANDS = {
    "prepare": "Make HR and LR images, sub-images and LMDBs, as BasicSR reads them.",
    "lmdb": "Pack the images of a folder into an LMDB, as BasicSR reads it.",
    "verify": "Check that images decode, LMDBs are whole, and HR and LR images fit each other.",
    "stats": "Count and measure images, and tell whether training crops fit in them.",
    "download": "Download public image sets, or list them and say how to get the others.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    add_commands(parser, __name__, COMMANDS)
