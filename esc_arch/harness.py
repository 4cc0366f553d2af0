"""Training and testing with checked options: the pipelines behind the ``basicsr`` command."""

import argparse
from functools import partial
from pathlib import Path

import basicsr.test
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel

from esc_arch import options
from esc_arch.plugin.workarounds import use_options
from esc_arch.training import Options
from esc_arch.training.jobs import joined
from esc_arch.training.loop import train_pipeline
from esc_arch.training.validation import is_distributed, validate_distributed


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

    In several processes, where BasicSR lets the first one work alone, each takes its share of the
    images.

    Args:
        args: as of :func:`train`.

    Raises:
        UserError: when the option file is wrong; nothing has been written then.
    """
    root_path = str(Path.cwd())
    use_options(options.parse(args, root_path, is_train=False), args, _build_model)
    with joined():
        basicsr.test.test_pipeline(root_path)


def _build_model(opt: Options) -> BaseModel:
    model = build_model(opt)
    if is_distributed(model):
        model.validation = partial(validate_distributed, model)
    return model
