"""``basicsr test``: BasicSR's test_pipeline on a checked option file."""

import argparse

from esc_arch import harness
from esc_arch.cli.pipeline_arguments import add_arguments

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Test a network by an option file."


def run(args: argparse.Namespace) -> None:
    harness.test(args)
