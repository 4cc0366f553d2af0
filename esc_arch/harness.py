"""Runs training, and BasicSR's own testing pipeline, on checked options.

BasicSR's ``parse_options`` loads YAML with a loader that executes code and applies
``--force_yml`` with ``exec``.  Here the pipelines get the options from
:mod:`esc_arch.options` instead, which holds the same keys after a safe load and a check.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import basicsr.test

from esc_arch import options
from esc_arch.training.liveness import joined
from esc_arch.training.loop import train_pipeline


def train(args: argparse.Namespace) -> int:
    """Train in the current directory by :func:`esc_arch.training.loop.train_pipeline`.

    Args:
        args: opt, launcher, auto_resume, debug and force_yml, as the command line
            gives them.

    Returns:
        The exit code: 0, or 128 and the signal that ended the training with a checkpoint.

    Raises:
        UserError: when the option file is wrong, and nothing has been written then; when a
            checkpoint cannot be written.
    """
    root_path = str(Path.cwd())
    opt = options.parse(args, root_path, is_train=True)
    opt["root_path"] = root_path
    with joined() as job:
        # torchrun gives the same command again.
        if job.is_restarted(Path(opt["path"]["experiments_root"])):
            opt["auto_resume"] = True
        return train_pipeline(opt, args.opt, job)


def test(args: argparse.Namespace) -> None:
    """Run ``basicsr.test.test_pipeline`` in the current directory.

    Args:
        args: as of :func:`train`.

    Raises:
        UserError: when the option file is wrong; nothing has been written then.
    """
    basicsr.test.parse_options = _parse_options(args)
    basicsr.test.test_pipeline(str(Path.cwd()))


def _parse_options(args: argparse.Namespace) -> Callable[..., tuple[dict, argparse.Namespace]]:
    """A function with the signature of ``basicsr.utils.options.parse_options``."""

    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict, argparse.Namespace]:
        return options.parse(args, root_path, is_train), args

    return parse_options
