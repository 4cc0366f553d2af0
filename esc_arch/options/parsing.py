"""From an option file to the options of BasicSR's pipelines."""

import argparse
import os
import random
from typing import Any

import torch
from basicsr.utils import options as basicsr_options

from esc_arch.options.invocation import Run
from esc_arch.options.option_file import check
from esc_arch.options.public_files import adopted
from esc_arch.options.yaml import force, read


def parse(args: argparse.Namespace, root_path: str, is_train: bool) -> dict[str, Any]:
    """Read, check and complete an option file.

    Args:
        args: opt (the file), launcher, auto_resume, debug and force_yml.
        root_path: folder under which experiments/ and results/ are made.
        is_train: whether to train rather than test.

    Returns:
        The options that ``basicsr.utils.options.parse_options`` returns for the same file.

    Raises:
        UserError: for anything wrong with the file or what it names; nothing has been
            written and no process group started then.
    """
    opt = read(args.opt)
    force(opt, args.force_yml, args.opt)
    opt = adopted(opt)
    run = Run(is_train, root_path, args.launcher, args.auto_resume, args.debug)
    check(opt, args.opt, run)
    return resolve(opt, args, root_path, is_train)


def resolve(
    opt: dict[str, Any], args: argparse.Namespace, root_path: str, is_train: bool
) -> dict[str, Any]:
    """The part of BasicSR's parse_options that follows the reading, on checked options.

    See :func:`parse`; changes and returns ``opt``.
    """
    # Looked up in the module, where esc_arch.plugin.workarounds may have put another one.
    if args.launcher != "none":
        dist_params = opt.get("dist_params", {}) if args.launcher == "slurm" else {}
        # The machine may have GPUs that the run is not to use.
        if opt["num_gpu"] == 0 and torch.cuda.is_available():
            dist_params = {**dist_params, "backend": "gloo"}
        if getattr(args, "local_rank", None) is not None:
            os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
        basicsr_options.init_dist(args.launcher, **dist_params)
    opt["dist"] = args.launcher != "none"
    opt["rank"], opt["world_size"] = basicsr_options.get_dist_info()

    if opt.get("manual_seed") is None:
        opt["manual_seed"] = random.randint(1, 10000)
    basicsr_options.set_random_seed(opt["manual_seed"] + opt["rank"])

    opt["auto_resume"] = args.auto_resume
    opt["is_train"] = is_train
    opt["name"] = Run(is_train, debug=args.debug).experiment(opt)
    if opt["num_gpu"] == "auto":
        opt["num_gpu"] = torch.cuda.device_count()

    for phase, dataset in opt["datasets"].items():
        dataset["phase"] = phase.split("_")[0]
        if "scale" in opt:
            dataset["scale"] = opt["scale"]
        for key, value in dataset.items():
            # A dataset that accepts a list of roots expands them itself.
            if key.startswith("dataroot") and isinstance(value, str):
                dataset[key] = os.path.expanduser(value)
    for key, value in opt["path"].items():
        if value is not None and ("resume_state" in key or "pretrain_network" in key):
            opt["path"][key] = os.path.expanduser(value)

    if is_train:
        root = os.path.join(root_path, "experiments", opt["name"])
        opt["path"]["experiments_root"] = root
        opt["path"]["models"] = os.path.join(root, "models")
        opt["path"]["training_states"] = os.path.join(root, "training_states")
        if "debug" in opt["name"]:
            if opt.get("val") is not None:
                opt["val"]["val_freq"] = 8
            opt["logger"]["print_freq"] = 1
            opt["logger"]["save_checkpoint_freq"] = 8
    else:
        root = os.path.join(root_path, "results", opt["name"])
        opt["path"]["results_root"] = root
    opt["path"]["log"] = root
    opt["path"]["visualization"] = os.path.join(root, "visualization")
    return opt
