"""``basicsr compare``: one sub-command per file of this folder."""

import argparse

from esc_arch.cli.commands import add_commands

COMMANDS = {
    "cost": "Measure parameters, multiply-adds, latency and peak memory of networks.",
    "quality": "Measure PSNR and SSIM of trained networks and of bicubic on benchmark sets.",
    "train": "Train networks from scratch with the same data, schedule and steps or minutes; "
    "test them.",
    "report": "Write tables and pictures of one comparison, or merge several into one.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    add_commands(parser, __name__, COMMANDS)
