"""Runs BasicSR's own training and testing pipelines on checked options.

BasicSR's ``parse_options`` loads YAML with a loader that executes code and applies
``--force_yml`` with ``exec``.  Here the pipelines get the options from
:mod:`esc_arch.options` instead, which holds the same keys after a safe load and a check.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import basicsr.test
import basicsr.train

from esc_arch import options


def train(args: argparse.Namespace) -> None:
    """Run ``basicsr.train.train_pipeline`` in the current directory.

    Args:
        args: opt, launcher, auto_resume, debug and force_yml, as the command line
            gives them.

    Raises:
        UserError: when the option file is wrong; nothing has been written then.
    """
    basicsr.train.parse_options = _parse_options(args)
    basicsr.train.train_pipeline(str(Path.cwd()))


def test(args: argparse.Namespace) -> None:
    """Run ``basicsr.test.test_pipeline`` in the current directory; see :func:`train`."""
    basicsr.test.parse_options = _parse_options(args)
    basicsr.test.test_pipeline(str(Path.cwd()))


def _parse_options(args: argparse.Namespace) -> Callable[..., tuple[dict, argparse.Namespace]]:
    """A function with the signature of ``basicsr.utils.options.parse_options``."""

    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict, argparse.Namespace]:
        return options.parse(args, root_path, is_train), args

    return parse_options
