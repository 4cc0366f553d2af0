"""Checks the ``train`` section: losses, optimisers and schedulers."""

from collections.abc import Callable, Mapping

import torch
from basicsr.archs.vgg_arch import NAMES as VGG_LAYERS
from basicsr.losses.basic_loss import PerceptualLoss
from basicsr.losses.gan_loss import GANLoss
from basicsr.models.base_model import BaseModel
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from basicsr.utils.registry import LOSS_REGISTRY

from esc_arch.losses.vgg_perceptual_loss import CRITERIA
from esc_arch.options.constructors import check_arguments, complaint, has_parameter, resolve_type
from esc_arch.options.esc_model import check_foreign_keys, own_fields
from esc_arch.options.kinds import (
    COUNT,
    DECAY,
    INT,
    NUMBER,
    SECTION,
    Kind,
    is_number,
    is_whole,
    list_of,
    one_of,
    optional,
)
from esc_arch.options.problems import MISSING, Problems, describe, suggestion
from esc_arch.options.real_esrgan import train_fields
from esc_arch.options.sections import Field, add_missing, check_fields, subsection
from esc_arch.plugin.workarounds import OPTIMIZERS

# BasicSR's setup_schedulers takes its own class for both multi-step names.
SCHEDULERS = {
    "MultiStepLR": MultiStepRestartLR,
    "MultiStepRestartLR": MultiStepRestartLR,
    "CosineAnnealingRestartLR": CosineAnnealingRestartLR,
}

# Criteria by loss: BasicSR's "l2" stops, as PyTorch has no L2loss.
VGG_LOSSES = {"PerceptualLoss": ("l1", "fro"), "VGGPerceptualLoss": tuple(CRITERIA)}

GAN_TYPES = ("vanilla", "lsgan", "wgan", "wgan_softplus", "hinge")

FIELDS = {
    "total_iter": Field(COUNT, "500000", required=True),
    "warmup_iter": Field(
        Kind("a whole number, -1 for no warm-up", lambda v: is_whole(v) and v >= -1), "20000"
    ),
    "ema_decay": Field(DECAY, "0.999"),
    "optim_g": Field(SECTION, "{type: AdamW, lr: !!float 5e-4}", required=True),
    "scheduler": Field(SECTION, "{type: MultiStepLR, milestones: [250000]}", required=True),
    "pixel_opt": Field(optional(SECTION), "{type: L1Loss}"),
    "perceptual_opt": Field(optional(SECTION), "{type: PerceptualLoss, layer_weights: ...}"),
}

SCHEDULER_FIELDS = {
    "milestones": Field(list_of(INT), "[250000, 400000]"),
    "restarts": Field(list_of(INT), "[0]"),
    "restart_weights": Field(list_of(NUMBER), "[1]"),
    "periods": Field(
        Kind(
            "a list of whole numbers of at least 1",
            lambda v: isinstance(v, list) and len(v) > 0 and all(map(COUNT.accepts, v)),
        ),
        "[250000, 250000]",
    ),
}


def check_training(
    problems: Problems, opt: Mapping[str, object], plain: bool, model: type | None
) -> None:
    """Check ``train`` of a training file.

    Args:
        plain: whether the model is SRModel or reads the same keys.
        model: the model's class, if known.
    """
    train = subsection(problems, "train", opt, "{total_iter: 500000, optim_g: ..., scheduler: ...}")
    if train is None:
        return
    fields = FIELDS | train_fields(opt) | own_fields(opt, "train")
    foreign = check_foreign_keys(problems, "train", train, opt) if plain else None
    check_fields(problems, "train", train, fields, known=foreign)
    if (
        plain
        and "gan_opt" not in fields
        and not any(train.get(name) for name in ("pixel_opt", "perceptual_opt"))
    ):
        problems.add(
            "train.pixel_opt",
            "a pixel or a perceptual loss",
            "neither pixel_opt nor perceptual_opt",
            "Add `pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}`.",
        )
    for name, section in train.items():
        key = f"train.{name}"
        if name.endswith("_opt") and isinstance(section, dict) and section:
            _check_loss(problems, key, section)
        elif name.startswith("optim_") and isinstance(section, dict):
            own = getattr(model, "get_optimizer", None) is not BaseModel.get_optimizer
            # A model with a get_optimizer of its own knows its own names.
            if model is None or not own:
                _check_optimizer(problems, key, section)
    if isinstance(train.get("scheduler"), dict):
        _check_scheduler(problems, train["scheduler"], train.get("total_iter"))


def _check_loss(problems: Problems, key: str, section: Mapping[str, object]) -> None:
    loss = resolve_type(problems, key, section, LOSS_REGISTRY, "L1Loss")
    if loss is None:
        return
    _check_purpose(problems, key, section, loss)
    check_arguments(problems, key, loss, section)
    if has_parameter(loss, "gan_type"):
        check_fields(problems, key, section, {"gan_type": Field(one_of(*GAN_TYPES), "vanilla")})
    reduction = one_of("mean", "sum")
    if has_parameter(loss, "reduction") and not problems.under(f"{key}.reduction"):
        # 'none' builds, and then backward stops: the loss has to be one number.
        check_fields(problems, key, section, {"reduction": Field(reduction, "mean")})
    if section["type"] in VGG_LOSSES and not problems.under(key):
        _check_perceptual_loss(problems, key, section)


def _check_purpose(
    problems: Problems, key: str, section: Mapping[str, object], loss: Callable
) -> None:
    """Models call perceptual and GAN losses in their own ways, and other losses fail then."""
    wanted = {"perceptual_opt": PerceptualLoss, "gan_opt": GANLoss}.get(key.rpartition(".")[2])
    if wanted is None or (isinstance(loss, type) and issubclass(loss, wanted)):
        return
    # Those of other packages may do the same under another base.
    if loss.__module__.startswith("basicsr."):
        problems.add(
            f"{key}.type",
            f"{wanted.__name__} or one like it",
            describe(section["type"]),
            f"Write `type: {wanted.__name__}`.",
        )


def _check_perceptual_loss(problems: Problems, key: str, section: Mapping[str, object]) -> None:
    vgg = section.get("vgg_type", "vgg19")
    check_fields(
        problems,
        key,
        section,
        {
            "vgg_type": Field(one_of(*VGG_LAYERS), "vgg19"),
            "criterion": Field(one_of(*VGG_LOSSES[section["type"]]), "l1"),
            "layer_weights": Field(SECTION, "{conv5_4: 1}"),
        },
    )
    if problems.under(key):
        return
    if not section["layer_weights"]:
        problems.add(
            f"{key}.layer_weights", "at least one layer", "none", "Write, say, `{conv5_4: 1}`."
        )
    for layer, weight in section["layer_weights"].items():
        if layer not in VGG_LAYERS[vgg]:
            problems.add(
                f"{key}.layer_weights.{layer}",
                f"a layer of {vgg}",
                "an unknown layer",
                suggestion(layer, VGG_LAYERS[vgg]),
            )
        elif not is_number(weight):
            problems.add(
                f"{key}.layer_weights.{layer}", "a number", describe(weight), "Write its weight."
            )


def _check_optimizer(problems: Problems, key: str, section: Mapping[str, object]) -> None:
    optimizer = _type_of(problems, key, section, OPTIMIZERS, "AdamW")
    if optimizer is None:
        return
    check_arguments(problems, key, optimizer, section, supplied=("params",))
    if "lr" not in section:
        add_missing(problems, f"{key}.lr", Field(NUMBER, "!!float 5e-4"))
    if not problems.under(key):
        try:
            optimizer([torch.nn.Parameter(torch.zeros(1))], **_arguments(section))
        except (TypeError, ValueError, AssertionError) as error:
            _add_complaint(problems, key, section, error)


def _check_scheduler(problems: Problems, section: Mapping[str, object], total_iter: object) -> None:
    key = "train.scheduler"
    scheduler = _type_of(problems, key, section, SCHEDULERS, "MultiStepLR")
    if scheduler is None:
        return
    check_arguments(problems, key, scheduler, section, supplied=("optimizer", "last_epoch"))
    if not problems.under(key):
        check_fields(problems, key, section, SCHEDULER_FIELDS)
    if problems.under(key):
        return
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        scheduler(optimizer, **_arguments(section))
    except (TypeError, ValueError, AssertionError, ZeroDivisionError) as error:
        _add_complaint(problems, key, section, error)
        return
    # The scheduler has no learning rate to give after its last period.
    steps = sum(section.get("periods", ()))
    if "periods" in section and COUNT.accepts(total_iter) and steps < total_iter - 1:
        problems.add(
            f"{key}.periods",
            f"periods that add up to train.total_iter, {total_iter}, or more",
            f"a sum of {steps}",
            "Lengthen the last period.",
        )


def _type_of(
    problems: Problems, key: str, section: Mapping[str, object], known: Mapping, example: str
) -> type | None:
    name = section.get("type", MISSING)
    if isinstance(name, str) and name in known:
        return known[name]
    advice = suggestion(name, known)
    if "type" not in section:
        advice = f"Add `type: {example}`."
    problems.add(
        f"{key}.type",
        "one of " + ", ".join(known),
        describe(name) if "type" in section else MISSING,
        advice,
    )
    return None


def _arguments(section: Mapping[str, object]) -> dict:
    return {name: value for name, value in section.items() if name != "type"}


def _add_complaint(
    problems: Problems, key: str, section: Mapping[str, object], error: Exception
) -> None:
    problems.add(
        key,
        f"arguments that {section['type']} accepts",
        complaint(error),
        "Change the arguments that it names.",
    )
