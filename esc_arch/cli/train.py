"""``basicsr train``: BasicSR's training by a checked option file."""

import argparse
from pathlib import Path

from esc_arch import options
from esc_arch.training.jobs import joined
from esc_arch.training.loop import train_pipeline
from esc_arch.training.runtime import require_files

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``train`` and ``test``, spelled as BasicSR spells them."""
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file (YAML)")
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm"],
        default="none",
        help="how the processes of a distributed run were started (default: none)",
    )
    parser.add_argument(
        "--auto_resume",
        action="store_true",
        help="continue from the newest training state of this experiment, if there is one",
    )
    parser.add_argument(
        "--debug", action="store_true", help="BasicSR's debug mode: validates and saves often"
    )
    parser.add_argument(
        "--local_rank",
        "--local-rank",
        type=int,
        help="set by some launchers; LOCAL_RANK in the environment goes before it",
    )
    parser.add_argument(
        "--force_yml",
        nargs="+",
        default=[],
        metavar="KEY:KEY=VALUE",
        help="replace values of the option file, e.g. train:ema_decay=0.99",
    )


def run(args: argparse.Namespace) -> int:
    """Train in the current directory.

    Returns:
        The exit code: 0, or 128 and the signal that ended the training with a checkpoint.

    Raises:
        UserError: when the option file is wrong, and nothing has been written then; when a
            checkpoint cannot be written.
    """
    root_path = str(Path.cwd())
    opt = options.parse(args, root_path, is_train=True)
    opt["root_path"] = root_path
    workers = opt["datasets"]["train"]["num_worker_per_gpu"]
    require_files(workers * max(1, 0 if opt["dist"] else opt["num_gpu"]))
    raw = options.read(args.opt)
    options.force(raw, args.force_yml, args.opt)
    seed = None if raw.get("manual_seed") is None else opt["manual_seed"]
    with joined() as job:
        # torchrun gives the same command again.
        if job.is_restarted(Path(opt["path"]["experiments_root"])):
            opt["auto_resume"] = True
        return train_pipeline(opt, args.opt, job, seed)
