"""Rules of the option files of ESCModel: across their keys, and for the machine."""

import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY

from esc_arch.archs.esc_arch import ESCFamily
from esc_arch.options.constructors import registered
from esc_arch.options.datasets import training_data
from esc_arch.options.invocation import Run
from esc_arch.options.problems import Problems, describe
from esc_arch.options.sections import ESC_MODEL, PLAIN_MODELS, ESCTrain, ESCVal, Train, Val
from esc_arch.options.types import Size, accepts

# The keys of ESCModel alone.
OWN_KEYS = {
    "train": tuple(ESCTrain.model_fields.keys() - Train.model_fields.keys()),
    "val": tuple(ESCVal.model_fields.keys() - Val.model_fields.keys()),
}

# The compiler that PyTorch uses for CPUs, unless CXX names one.
CXX = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")


def pads_to_windows(opt: Mapping[str, Any]) -> bool:
    """Whether ESCModel extends the images of validation to whole windows."""
    val = opt.get("val")
    return (
        opt.get("model_type") == ESC_MODEL
        and isinstance(val, dict)
        and bool(val.get("whole_windows"))
    )


def check_esc_model_keys(
    problems: Problems, place: str, section: Mapping[str, Any], opt: Mapping[str, Any]
) -> dict[str, Any]:
    """Note keys of ESCModel in the file of a model that does not read them.

    Args:
        place: ``train`` or ``val``.
        section: its content.

    Returns:
        The section's other keys.
    """
    model = opt.get("model_type")
    own = OWN_KEYS[place] if model != ESC_MODEL and model in PLAIN_MODELS else ()
    for name in section:
        if name in own:
            problems.add(
                f"{place}.{name}",
                f"a key that {model} reads",
                f"one of {ESC_MODEL}",
                f"Write `model_type: {ESC_MODEL}`, or remove the key.",
            )
    return {name: value for name, value in section.items() if name not in own}


def check_esc_model(problems: Problems, opt: Mapping[str, Any]) -> None:
    """Check the rules across the keys of a training file of the model."""
    train = opt.get("train")
    if opt.get("model_type") != ESC_MODEL or not isinstance(train, dict):
        return
    _check_accumulate(problems, opt, train)
    if train.get("checkpoint_activations") is True and not problems.under("network_g"):
        network = registered(ARCH_REGISTRY, opt["network_g"]["type"])
        if not (isinstance(network, type) and issubclass(network, ESCFamily)):
            problems.add(
                "train.checkpoint_activations",
                "a network of ESC blocks",
                describe(opt["network_g"]["type"]),
                "Remove the key.",
            )


def _check_accumulate(problems: Problems, opt: Mapping[str, Any], train: Mapping[str, Any]) -> None:
    parts = train.get("accumulate", 1)
    if not accepts(Size, parts) or parts == 1:
        return
    batch = (training_data(opt) or {}).get("batch_size_per_gpu")
    if accepts(Size, batch) and batch % parts:
        problems.add(
            "train.accumulate",
            f"a divisor of datasets.train.batch_size_per_gpu, {batch}",
            describe(parts),
            "Change one of the two.",
        )
    perceptual = train.get("perceptual_opt")
    if isinstance(perceptual, dict) and perceptual.get("criterion") == "fro":
        problems.add(
            "train.accumulate",
            "1 with the criterion 'fro', which is no mean over the images of a batch",
            describe(parts),
            "Write `criterion: l1` under perceptual_opt, or remove `accumulate`.",
        )


def check_esc_model_machine(problems: Problems, opt: Mapping[str, Any], run: Run) -> None:
    """Check that this machine supports the keys of a training file of the model."""
    train = opt.get("train")
    if not run.is_train or opt.get("model_type") != ESC_MODEL or not isinstance(train, dict):
        return
    wanted, available = opt.get("num_gpu"), torch.cuda.device_count()
    gpus = available if wanted == "auto" else wanted
    if type(gpus) is not int:
        return
    if gpus == 0 and train.get("amp") == "fp16":
        problems.add(
            "train.amp",
            "bf16 or nothing, as this run has no GPU and fp16 is slower than float32 on a CPU",
            "fp16",
            "Write `amp: bf16`.",
        )
    if train.get("compile") is not True:
        return
    if gpus == 0 and shutil.which(os.environ.get("CXX", CXX)) is None:
        problems.add(
            "train.compile",
            f"a C++ compiler, {os.environ.get('CXX', CXX)}",
            "none on the PATH",
            "Install one, or write `compile: false`.",
        )
    if gpus > 1 and run.launcher == "none":
        problems.add(
            "train.compile",
            "one process for each GPU",
            f"one process for {gpus} GPUs",
            f"Start with `torchrun --nproc_per_node={gpus} -m esc_arch train -opt FILE "
            "--launcher pytorch`, or write `num_gpu: 1`.",
        )
