"""``basicsr test``: BasicSR's test_pipeline on a checked option file."""

import argparse
from functools import partial
from pathlib import Path

import basicsr.test
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel

from esc_arch import options
from esc_arch.cli import train
from esc_arch.errors import UserError
from esc_arch.training import Options
from esc_arch.training.jobs import joined
from esc_arch.training.validation import validate

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``train``, and one more."""
    train.add_arguments(parser)
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="test a network of random weights where path.pretrain_network_g names none",
    )


def run(args: argparse.Namespace) -> None:
    """Run ``basicsr.test.test_pipeline`` in the current directory.

    In several processes, where BasicSR lets the first one work alone, each takes its share of the
    images.

    Raises:
        UserError: when the option file is wrong or names no weights; nothing has been written
            then.
    """
    root_path = str(Path.cwd())
    opt = options.parse(args, root_path, is_train=False)
    if opt["path"].get("pretrain_network_g") is None and not args.untrained:
        raise UserError(
            f"{args.opt}: path.pretrain_network_g: expected the weights to test; found none, and "
            "random ones have no worth. Name a checkpoint there, or add --untrained to test random "
            "weights."
        )
    # Defect: BasicSR's parse_options loads YAML with a loader that runs code, and applies
    # --force_yml by exec.
    basicsr.test.parse_options = lambda root_path, is_train: (opt, args)
    basicsr.test.build_model = _build_model
    with joined():
        basicsr.test.test_pipeline(root_path)


def _build_model(opt: Options) -> BaseModel:
    model = build_model(opt)
    model.validation = partial(validate, model)
    return model
