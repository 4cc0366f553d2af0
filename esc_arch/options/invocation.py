"""The circumstances of a run, and checks of this machine: GPUs, launcher, packages."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from basicsr.utils.registry import MODEL_REGISTRY

from esc_arch.options.constructors import registered
from esc_arch.options.datasets import evaluated, training_data
from esc_arch.options.model_needs import is_video_model
from esc_arch.options.problems import Problems
from esc_arch.options.sections import ESC_MODELS


@dataclass(frozen=True)
class Run:
    """
    Attributes:
        is_train: training rather than testing.
        root_path: folder under which experiments/ and results/ lie.
        launcher: none, pytorch or slurm.
        auto_resume: whether the newest training state is looked for.
        debug: BasicSR's debug mode.
    """

    is_train: bool
    root_path: str = "."
    launcher: str = "none"
    auto_resume: bool = False
    debug: bool = False

    def experiment(self, opt: Mapping[str, object]) -> str:
        """The experiment's name, as BasicSR changes it in debug mode."""
        name = str(opt.get("name"))
        return f"debug_{name}" if self.debug and not name.startswith("debug") else name

    def folder(self, opt: Mapping[str, object]) -> str:
        """The folder that training writes to."""
        return os.path.join(self.root_path, "experiments", self.experiment(opt))

    def processes(self) -> int:
        """How many processes train together."""
        variable = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS"}.get(self.launcher)
        count = os.environ.get(variable, "1") if variable else "1"
        return int(count) if count.isdigit() else 1


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

# The compiler that PyTorch uses for CPUs, unless CXX names one.
CXX = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")


def inspect_machine(problems: Problems, opt: Mapping[str, Any], run: Run) -> None:
    """Note the GPUs, variables and packages that a run of the option file lacks here."""
    _check_launcher(problems, run.launcher)
    _check_gpus(problems, opt, run)
    check_esc_model_machine(problems, opt, run)
    _check_video_machine(problems, opt)
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
        expected = f"{', '.join(variables)} in the environment"
        problems.add(f"--launcher {launcher}", expected, f"no {', '.join(unset)}", advice)
    for name in variables:
        value = os.environ.get(name, "0")
        if name in _NUMBERS and not (value.isascii() and value.isdecimal()):
            problems.add(f"--launcher {launcher}", f"a number in {name}", repr(value), advice)
    processes = os.environ.get("WORLD_SIZE", "1")
    if launcher == "none" and "TORCHELASTIC_RUN_ID" in os.environ and processes != "1":
        expected = f"pytorch, as torchrun has started {processes} processes"
        found = "none, with which each of them would write the same experiment on its own"
        advice = "Add `--launcher pytorch`, or start without torchrun."
        problems.add("--launcher", expected, found, advice)


def _check_gpus(problems: Problems, opt: Mapping[str, Any], run: Run) -> None:
    available = torch.cuda.device_count()
    wanted = opt.get("num_gpu")
    # With a launcher the number may count the GPUs of several machines.
    if run.launcher == "none" and type(wanted) is int and wanted > available:
        expected = f"at most {available}, the GPUs of this machine"
        problems.add("num_gpu", expected, str(wanted), "Write `num_gpu: auto`.")
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    local = int(text) if text.isdecimal() else 1
    # NCCL takes one process for each GPU; without a GPU there are as many as wanted.
    if run.launcher == "pytorch" and wanted != 0 and 0 < available < local:
        expected = f"at most {available} processes on this machine, one for each GPU"
        advice = f"Write `torchrun --nproc-per-node {available}`, or `num_gpu: 0` to train on CPUs."
        problems.add("--launcher pytorch", expected, str(local), advice)
    prefetch = (training_data(opt) or {}).get("prefetch_mode")
    if run.is_train and prefetch == "cuda" and 0 in (available, wanted):
        key, expected = "datasets.train.prefetch_mode", "~ or cpu, as this run has no GPU"
        problems.add(key, expected, "cuda", "Write `prefetch_mode: ~`.")


def _check_package(problems: Problems, key: str, package: str, otherwise: str) -> None:
    if importlib.util.find_spec(package) is None:
        advice = f"{otherwise}, or install it."
        problems.add(key, f"the package {package} to be installed", "no such package", advice)


def _check_video_machine(problems: Problems, opt: Mapping[str, Any]) -> None:
    """BasicSR's models of videos keep the values of metrics on a GPU, whatever num_gpu is."""
    val, model = opt.get("val"), registered(MODEL_REGISTRY, opt.get("model_type"))
    has_metrics = isinstance(val, dict) and bool(val.get("metrics")) and bool(evaluated(opt))
    if is_video_model(model) and has_metrics and not torch.cuda.is_available():
        expected = f"nothing (~) without a GPU, on which {opt['model_type']} keeps their values"
        problems.add("val.metrics", expected, "metrics", "Write `metrics: ~`, or use a GPU.")


def check_esc_model_machine(problems: Problems, opt: Mapping[str, Any], run: Run) -> None:
    """Check that this machine can do what a training file of the model asks for."""
    train = opt.get("train")
    if not run.is_train or opt.get("model_type") not in ESC_MODELS or not isinstance(train, dict):
        return
    wanted, available = opt.get("num_gpu"), torch.cuda.device_count()
    gpus = available if wanted == "auto" else wanted
    if type(gpus) is not int:
        return
    if gpus == 0 and train.get("amp") == "fp16":
        expected = (
            "bf16 or nothing, as this run has no GPU and fp16 is slower than float32 on a CPU"
        )
        problems.add("train.amp", expected, "fp16", "Write `amp: bf16`.")
    if train.get("compile") is not True:
        return
    compiler = os.environ.get("CXX", CXX)
    if gpus == 0 and shutil.which(compiler) is None:
        found, advice = "none on the PATH", "Install one, or write `compile: false`."
        problems.add("train.compile", f"a C++ compiler, {compiler}", found, advice)
    if gpus > 1 and run.launcher == "none":
        problems.add(
            "train.compile",
            "one process for each GPU",
            f"one process for {gpus} GPUs",
            f"Start with `torchrun --nproc_per_node={gpus} -m esc_arch train -opt FILE "
            "--launcher pytorch`, or write `num_gpu: 1`.",
        )
