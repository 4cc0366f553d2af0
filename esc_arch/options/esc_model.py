"""Checks what ESCModel reads beside the keys of SRModel."""

import os
import shutil
import sys
from collections.abc import Mapping

import torch
from basicsr.utils.registry import ARCH_REGISTRY

from esc_arch.archs.esc_arch import ESCFamily
from esc_arch.models.esc_model import PRECISIONS
from esc_arch.options.constructors import registered
from esc_arch.options.kinds import BOOL, POSITIVE, SIZE, is_int, one_of, optional
from esc_arch.options.problems import Problems, describe
from esc_arch.options.run import Run
from esc_arch.options.sections import Field

MODEL = "ESCModel"

TRAIN_FIELDS = {
    "amp": Field(optional(one_of(*PRECISIONS)), "bf16"),
    "compile": Field(BOOL, "true"),
    "channels_last": Field(BOOL, "true"),
    "accumulate": Field(SIZE, "2"),
    "grad_clip": Field(optional(POSITIVE), "0.5"),
    "skip_nonfinite": Field(BOOL, "true"),
    "checkpoint_activations": Field(BOOL, "true"),
}
VAL_FIELDS = {"whole_windows": Field(BOOL, "true")}
FIELDS = {"train": TRAIN_FIELDS, "val": VAL_FIELDS}

# The compiler that PyTorch takes for CPUs, unless CXX names one.
CXX = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")


def own_fields(opt: Mapping[str, object], key: str) -> dict[str, Field]:
    """What the model reads under ``train`` or ``val``."""
    return FIELDS[key] if opt.get("model_type") == MODEL else {}


def pads_to_windows(opt: Mapping[str, object]) -> bool:
    """Whether the model was told to extend the images of validation to whole windows."""
    val = opt.get("val")
    return (
        opt.get("model_type") == MODEL and isinstance(val, dict) and bool(val.get("whole_windows"))
    )


def check_foreign_keys(
    problems: Problems, key: str, section: Mapping[str, object], opt: Mapping[str, object]
) -> list[str]:
    """Note keys of ESCModel in the file of a model that does not read them.

    Args:
        key: ``train`` or ``val``.
        section: what stands there.

    Returns:
        Their names.
    """
    if opt.get("model_type") == MODEL:
        return []
    foreign = [name for name in FIELDS[key] if name in section]
    for name in foreign:
        problems.add(
            f"{key}.{name}",
            f"a key that {opt.get('model_type')} reads",
            f"one of {MODEL}",
            f"Write `model_type: {MODEL}`, or remove the key.",
        )
    return foreign


def check_esc_model(problems: Problems, opt: Mapping[str, object]) -> None:
    """Check what goes together in a training file of the model."""
    train = opt.get("train")
    if opt.get("model_type") != MODEL or not isinstance(train, dict):
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


def _check_accumulate(problems: Problems, opt: Mapping, train: Mapping) -> None:
    parts = train.get("accumulate", 1)
    if not SIZE.accepts(parts) or parts == 1:
        return
    datasets = opt.get("datasets")
    data = datasets.get("train") if isinstance(datasets, dict) else None
    batch = data.get("batch_size_per_gpu") if isinstance(data, dict) else None
    if SIZE.accepts(batch) and batch % parts:
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


def check_esc_model_machine(problems: Problems, opt: Mapping[str, object], run: Run) -> None:
    """Check that this machine can do what a training file of the model asks for."""
    train = opt.get("train")
    if not run.is_train or opt.get("model_type") != MODEL or not isinstance(train, dict):
        return
    wanted, available = opt.get("num_gpu"), torch.cuda.device_count()
    gpus = available if wanted == "auto" else wanted
    if not is_int(gpus):
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
