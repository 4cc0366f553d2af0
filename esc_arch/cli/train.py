"""``basicsr train``: trains by a checked option file."""

import argparse

from esc_arch import harness
from esc_arch.cli.pipeline_arguments import add_arguments

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    return harness.train(args)
