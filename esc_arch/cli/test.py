"""``basicsr test``: BasicSR's test_pipeline on a checked option file."""

import argparse

from esc_arch import harness
from esc_arch.cli.train import add_arguments

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> None:
    harness.test(args)
