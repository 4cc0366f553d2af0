"""Checks the sections that become objects: networks, losses, optimisers, schedulers, metrics.

Their keys are compared with the signatures of the constructors; then the object is built.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from basicsr.archs.vgg_arch import NAMES as VGG_LAYERS
from basicsr.losses.basic_loss import PerceptualLoss
from basicsr.losses.gan_loss import GANLoss
from basicsr.models.base_model import BaseModel
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from basicsr.utils.file_client import FileClient
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY

from esc_arch.losses.vgg_perceptual_loss import CRITERIA
from esc_arch.options.constructors import (
    TooLarge,
    check_arguments,
    complaint,
    default_of,
    has_parameter,
    registered,
    resolve_type,
    try_network,
)
from esc_arch.options.datasets import SINGLE, evaluated
from esc_arch.options.problems import Problems, describe, suggestion
from esc_arch.options.sections import (
    LTE_MODEL,
    GANLossSection,
    Loss,
    Metric,
    Optimizer,
    PerceptualLossSection,
    Scheduler,
)
from esc_arch.options.types import (
    Count,
    Mapped,
    accepts,
    check_section,
    is_number,
    require,
    words,
)
from esc_arch.plugin.workarounds import OPTIMIZERS

# BasicSR's setup_schedulers uses its own class for both multi-step names.
SCHEDULERS = {
    "MultiStepLR": MultiStepRestartLR,
    "MultiStepRestartLR": MultiStepRestartLR,
    "CosineAnnealingRestartLR": CosineAnnealingRestartLR,
}

# Criteria by loss: BasicSR's "l2" stops, as PyTorch has no L2loss.
VGG_LOSSES = {"PerceptualLoss": ("l1", "fro"), "VGGPerceptualLoss": tuple(CRITERIA)}

# The names that networks give to their upscaling factor.
SCALE_ARGUMENTS = ("upscaling_factor", "upscale", "upsampling", "scale")

_REFUSALS = (TypeError, ValueError, AssertionError, ZeroDivisionError)


def check_networks(problems: Problems, opt: Mapping[str, Any]) -> None:
    """Check every ``network_*`` section that is a mapping."""
    for place, section in opt.items():
        if not place.startswith("network_") or not isinstance(section, dict):
            continue
        network = resolve_type(problems, place, section, ARCH_REGISTRY, "ESC")
        if network is None:
            continue
        check_arguments(problems, place, network, section)
        error = None if problems.under(place) else try_network(section)
        if isinstance(error, TooLarge):
            expected = "a network that this machine can build"
            problems.add(place, expected, str(error), "Lower its sizes.")
        elif error is not None:
            _add_complaint(problems, place, section, error)
    if isinstance(opt.get("network_g"), dict) and not problems.under("network_g"):
        _check_scale(problems, opt)


def _check_scale(problems: Problems, opt: Mapping[str, Any]) -> None:
    section = opt["network_g"]
    network = registered(ARCH_REGISTRY, section["type"])
    if network is None or not is_number(opt.get("scale")) or problems.under("scale"):
        return
    argument = next((a for a in SCALE_ARGUMENTS if has_parameter(network, a)), None)
    if argument is None:
        return
    own = section.get(argument, default_of(network, argument))
    if is_number(own) and own != opt["scale"]:
        expected = f"{opt['scale']}, the `scale` at the top of the file"
        absent, advice = f"its default, {describe(own)}", "Make the two equal."
        problems.wrong("network_g", section, argument, expected, advice, absent)


def check_io_backend(problems: Problems, place: str, section: object) -> None:
    """Check the ``io_backend`` of a dataset; ``place`` is its dotted path."""
    if not isinstance(section, dict):
        advice = "Write `io_backend: {type: disk}`."
        problems.add(place, words(Mapped), describe(section), advice)
        return
    backends = FileClient._backends
    kinds: Any = Literal[tuple(backends)]
    kind = require(problems, f"{place}.type", section, kinds, "disk")
    if kind is not None:
        # The dataset adds where the LMDBs are.
        check_arguments(problems, place, backends[kind], section, ("db_paths", "client_keys"))


def check_losses(problems: Problems, train: Mapping[str, Any]) -> None:
    """Check every ``*_opt`` section of ``train``."""
    for name, section in train.items():
        if name.endswith("_opt") and isinstance(section, dict) and section:
            _check_loss(problems, f"train.{name}", section)


def _check_loss(problems: Problems, place: str, section: Mapping[str, Any]) -> None:
    loss = resolve_type(problems, place, section, LOSS_REGISTRY, "L1Loss")
    if loss is None:
        return
    _check_purpose(problems, place, section, loss)
    check_arguments(problems, place, loss, section)
    if section["type"] in VGG_LOSSES:
        if not problems.under(place):
            _check_perceptual_loss(problems, place, section)
        return
    model = GANLossSection if has_parameter(loss, "gan_type") else Loss
    # 'none' builds, and then backward stops: the loss has to be one number.
    own = {name: section[name] for name in section if has_parameter(loss, name)}
    check_section(problems, place, model, {"type": section["type"], **own})


def _check_purpose(
    problems: Problems, place: str, section: Mapping[str, Any], loss: Callable[..., Any]
) -> None:
    """Models call perceptual and GAN losses in their own ways, and other losses fail then."""
    purposes = {"perceptual_opt": PerceptualLoss, "gan_opt": GANLoss}
    wanted = purposes.get(place.rpartition(".")[2])
    if wanted is None or (isinstance(loss, type) and issubclass(loss, wanted)):
        return
    # Those of other packages may do the same under another base.
    if loss.__module__.startswith("basicsr."):
        name = wanted.__name__
        problems.wrong(place, section, "type", f"{name} or one like it", f"Write `type: {name}`.")


def _check_perceptual_loss(problems: Problems, place: str, section: Mapping[str, Any]) -> None:
    check_section(problems, place, PerceptualLossSection, section)
    criteria = VGG_LOSSES[section["type"]]
    criterion = section.get("criterion", "l1")
    if criterion not in criteria:
        expected = " or ".join(f"'{name}'" for name in criteria)
        problems.wrong(place, section, "criterion", expected, suggestion(criterion, criteria))
    if problems.under(place):
        return
    vgg, weights = section.get("vgg_type", "vgg19"), section["layer_weights"]
    place, known = f"{place}.layer_weights", VGG_LAYERS[vgg]
    if not weights:
        problems.add(place, "at least one layer", "none", "Write, say, `{conv5_4: 1}`.")
    for layer, weight in weights.items():
        key = f"{place}.{layer}"
        if layer not in known:
            advice = suggestion(layer, known)
            problems.add(key, f"a layer of {vgg}", "an unknown layer", advice)
        elif not is_number(weight):
            problems.add(key, "a number", describe(weight), "Write its weight.")


def check_optimizers(
    problems: Problems, train: Mapping[str, Any], model: Callable[..., Any] | None
) -> None:
    """Check every ``optim_*`` section of ``train``; ``model`` is the model's class, if known."""
    # A model with a get_optimizer of its own knows its own names.
    if model is not None and getattr(model, "get_optimizer", None) is not BaseModel.get_optimizer:
        return
    for name, section in train.items():
        if name.startswith("optim_") and isinstance(section, dict):
            _check_optimizer(problems, f"train.{name}", section)


def _check_optimizer(problems: Problems, place: str, section: Mapping[str, Any]) -> None:
    optimizer = resolve_type(problems, place, section, OPTIMIZERS, "AdamW")
    if optimizer is None:
        return
    check_arguments(problems, place, optimizer, section, supplied=("params",))
    check_section(problems, place, Optimizer, section)
    if not problems.under(place):
        try:
            optimizer([torch.nn.Parameter(torch.zeros(1))], **_arguments(section))
        except _REFUSALS as error:
            _add_complaint(problems, place, section, error)


def check_scheduler(problems: Problems, train: Mapping[str, Any]) -> None:
    """Check ``train.scheduler``, where it is a section."""
    place, section, total_iter = "train.scheduler", train["scheduler"], train.get("total_iter")
    scheduler = resolve_type(problems, place, section, SCHEDULERS, "MultiStepLR")
    if scheduler is None:
        return
    check_arguments(problems, place, scheduler, section, supplied=("optimizer", "last_epoch"))
    check_section(problems, place, Scheduler, section)
    if problems.under(place):
        return
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        scheduler(optimizer, **_arguments(section))
    except _REFUSALS as error:
        _add_complaint(problems, place, section, error)
        return
    # The scheduler has no learning rate to give after its last period.
    steps = sum(section.get("periods", ()))
    if "periods" in section and accepts(Count, total_iter) and steps < train["total_iter"] - 1:
        expected = f"periods that add up to train.total_iter, {total_iter}, or more"
        found, advice = f"a sum of {steps}", "Lengthen the last period."
        problems.add(f"{place}.periods", expected, found, advice)


def check_metrics(problems: Problems, opt: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Check every section of ``val.metrics``."""
    for name, section in metrics.items():
        place = f"val.metrics.{name}"
        if isinstance(section, dict):
            _check_metric(problems, place, section, opt)
        else:
            example = "Write, for example, `{type: calculate_psnr, crop_border: 2}`."
            problems.add(place, words(Mapped), describe(section), example)


def _check_metric(
    problems: Problems, place: str, section: Mapping[str, Any], opt: Mapping[str, Any]
) -> None:
    metric = resolve_type(problems, place, section, METRIC_REGISTRY, "calculate_psnr")
    if metric is None:
        return
    supplied = ("img", "img2", "scale") if opt.get("model_type") == LTE_MODEL else ("img", "img2")
    check_arguments(problems, place, metric, section, supplied=supplied, extra=("better",))
    has_border = has_parameter(metric, "crop_border")
    own = {k: v for k, v in section.items() if k != "crop_border" or has_border}
    if metric.__module__.split(".")[0] != "basicsr":
        own.pop("input_order", None)  # another one's may mean something else
    check_section(problems, place, Metric, own)
    if metric.__module__.startswith("basicsr.") and section.get("input_order", "HWC") != "HWC":
        # The border would be cut off the wrong axes, and nothing be left of the image.
        expected = "'HWC', the order of the images that validation gives"
        problems.wrong(place, section, "input_order", expected, "Remove the key.")
    if section["type"] in ("calculate_psnr_pt", "calculate_ssim_pt"):
        # BasicSR's validation passes arrays, and these call tensor methods.
        found = f"{describe(section['type'])}, a metric of tensors"
        advice = f"Write `type: {section['type'].removesuffix('_pt')}`."
        problems.add(f"{place}.type", "a metric of images", found, advice)
    elif inspect.signature(metric).parameters.get("img2") is not None:
        for dataset_place, dataset in evaluated(opt):
            if dataset.get("type") == SINGLE:
                found = f"{dataset_place} of type {SINGLE}"
                advice = "Remove the metric, or give the dataset's HR images as PairedImageDataset."
                problems.add(place, "datasets with ground truth", found, advice)


def _arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name != "type"}


def _add_complaint(
    problems: Problems, place: str, section: Mapping[str, Any], error: Exception
) -> None:
    expected = f"arguments that {section['type']} accepts"
    problems.add(place, expected, complaint(error), "Change the arguments that it names.")
