"""Checks an option file against this machine: GPUs, launcher, packages."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import torch

from esc_arch.options.esc_model_rules import check_esc_model_machine
from esc_arch.options.invocation import Run
from esc_arch.options.problems import Problems

# Environment variables that torch.distributed and BasicSR read, and the program that sets them.
LAUNCHERS = {
    "pytorch": (
        ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        "Start with `torchrun --nproc_per_node=N -m esc_arch train -opt FILE --launcher pytorch`.",
    ),
    "slurm": (
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
        "Start with `srun`, or leave `--launcher slurm` out.",
    ),
}
_NUMBERS = {"RANK", "WORLD_SIZE", "MASTER_PORT", "SLURM_PROCID", "SLURM_NTASKS"}


def inspect_machine(problems: Problems, opt: Mapping[str, Any], run: Run) -> None:
    """Note the GPUs, variables and packages that a run of the option file lacks here."""
    _check_launcher(problems, run.launcher)
    _check_gpus(problems, opt, run)
    check_esc_model_machine(problems, opt, run)
    logger = opt.get("logger")
    # BasicSR logs to neither in debug mode, which it knows by the experiment's name.
    if run.is_train and isinstance(logger, dict) and "debug" not in run.experiment(opt):
        wandb = logger.get("wandb")
        if isinstance(wandb, dict) and wandb.get("project") is not None:
            _check_package(problems, "logger.wandb.project", "wandb", "Write `project: ~`")
        if logger.get("use_tb_logger") is True:
            advice = "Write `use_tb_logger: false`"
            _check_package(problems, "logger.use_tb_logger", "tensorboard", advice)
    datasets = opt.get("datasets")
    for phase, section in datasets.items() if isinstance(datasets, dict) else ():
        backend = section.get("io_backend") if isinstance(section, dict) else None
        if isinstance(backend, dict) and backend.get("type") == "memcached":
            key = f"datasets.{phase}.io_backend.type"
            _check_package(problems, key, "mc", "Write `type: disk`")


def _check_launcher(problems: Problems, launcher: str) -> None:
    variables, advice = LAUNCHERS.get(launcher, ((), ""))
    unset = [name for name in variables if name not in os.environ]
    if unset:
        problems.add(
            f"--launcher {launcher}",
            f"{', '.join(variables)} in the environment",
            f"no {', '.join(unset)}",
            advice,
        )
    for name in variables:
        value = os.environ.get(name, "0")
        if name in _NUMBERS and not (value.isascii() and value.isdecimal()):
            problems.add(f"--launcher {launcher}", f"a number in {name}", repr(value), advice)
    processes = os.environ.get("WORLD_SIZE", "1")
    if launcher == "none" and "TORCHELASTIC_RUN_ID" in os.environ and processes != "1":
        problems.add(
            "--launcher",
            f"pytorch, as torchrun has started {processes} processes",
            "none, with which each of them would write the same experiment on its own",
            "Add `--launcher pytorch`, or start without torchrun.",
        )


def _check_gpus(problems: Problems, opt: Mapping[str, Any], run: Run) -> None:
    available = torch.cuda.device_count()
    wanted = opt.get("num_gpu")
    # With a launcher the number may count the GPUs of several machines.
    if run.launcher == "none" and type(wanted) is int and wanted > available:
        problems.add(
            "num_gpu",
            f"at most {available}, the GPUs of this machine",
            str(wanted),
            "Write `num_gpu: auto`.",
        )
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    local = int(text) if text.isdecimal() else 1
    # NCCL takes one process for each GPU; without a GPU there are as many as wanted.
    if run.launcher == "pytorch" and wanted != 0 and 0 < available < local:
        problems.add(
            "--launcher pytorch",
            f"at most {available} processes on this machine, one for each GPU",
            str(local),
            f"Write `torchrun --nproc-per-node {available}`, or `num_gpu: 0` to train on CPUs.",
        )
    datasets = opt.get("datasets")
    train = datasets.get("train") if isinstance(datasets, dict) else None
    if run.is_train and isinstance(train, dict) and train.get("prefetch_mode") == "cuda":
        on_cpu = available == 0 or wanted == 0
        if on_cpu:
            problems.add(
                "datasets.train.prefetch_mode",
                "~ or cpu, as this run has no GPU",
                "cuda",
                "Write `prefetch_mode: ~`.",
            )


def _check_package(problems: Problems, key: str, package: str, otherwise: str) -> None:
    if importlib.util.find_spec(package) is None:
        problems.add(
            key,
            f"the package {package} to be installed",
            "no such package",
            f"{otherwise}, or install it.",
        )
