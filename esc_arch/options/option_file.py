"""The checks of an option file, each of which lists all that it finds in one error."""

import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from pydantic.fields import FieldInfo

from esc_arch.archs.esc_arch import ESCFamily
from esc_arch.archs.esc_lte_arch import ESCLTE
from esc_arch.options import components
from esc_arch.options import datasets as data
from esc_arch.options.constructors import names, registered
from esc_arch.options.data_files import inspect_data
from esc_arch.options.datasets import training_data
from esc_arch.options.esc_lte import check_esc_lte
from esc_arch.options.invocation import Run, inspect_machine
from esc_arch.options.model_needs import check_channels, check_model_needs, needs_pixel_loss
from esc_arch.options.problems import Problems, describe, dotted, suggestion, unregistered
from esc_arch.options.public_files import adopted
from esc_arch.options.real_esrgan import FILES, RealESRGAN, RealESRGANOfLmdb, check_real_esrgan
from esc_arch.options.sections import (
    APART,
    ESC_MODEL,
    ESC_MODELS,
    LTE_MODEL,
    PLAIN_MODELS,
    ESCTrain,
    ESCVal,
    Logger,
    LTEPath,
    OpenOptions,
    Options,
    Path,
    Train,
    Val,
)
from esc_arch.options.types import Section, Size, accepts, check_section, require, subsection
from esc_arch.options.weight_files import inspect_checkpoints, inspect_loss_files

# Models that pad the image to a multiple of network_g.window_size.
PADDING_MODELS = ("SwinIRModel", "ESRModel")

_NO_LOSS = "Add `pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}`."


def check(opt: Mapping[str, Any], source: str, run: Run) -> None:
    """All checks; see the three below.

    Raises:
        UserError: listing every problem.  Files are looked at where the sections that
            name them have none.
    """
    opt = adopted(opt)
    with Problems(source) as problems:
        _inspect_structure(problems, opt, run.is_train)
        inspect_machine(problems, opt, run)
        _inspect_files(problems, opt, run)


def check_structure(opt: Mapping[str, Any], source: str, is_train: bool) -> None:
    """Check what needs neither data nor a particular machine.

    Args:
        opt: the option file's content, as :func:`esc_arch.options.read` returns it.
        source: the file's name, for the message.
        is_train: whether it is to be trained with, rather than tested.

    Raises:
        UserError: listing every problem.
    """
    opt = adopted(opt)
    with Problems(source) as problems:
        _inspect_structure(problems, opt, is_train)


def check_machine(opt: Mapping[str, Any], source: str, run: Run) -> None:
    """Check GPUs, launcher and packages; see :func:`check_structure`."""
    opt = adopted(opt)
    with Problems(source) as problems:
        inspect_machine(problems, opt, run)


def check_files(opt: Mapping[str, Any], source: str, run: Run) -> None:
    """Check the files that a structurally right file names: data, checkpoints, losses' weights.

    Raises:
        UserError: listing every problem.
    """
    opt = adopted(opt)
    with Problems(source) as problems:
        _inspect_files(problems, opt, run)


def _inspect_files(problems: Problems, opt: Mapping[str, Any], run: Run) -> None:
    inspect_data(problems, opt, run)
    inspect_checkpoints(problems, opt, run)
    if run.is_train:
        inspect_loss_files(problems, opt)


def options_model(model_type: object) -> type[Options]:
    """The model of the files that have this ``model_type``."""
    return FILES.get(model_type, OpenOptions) if isinstance(model_type, str) else OpenOptions


def dataset_model(section: Mapping[str, Any], is_training_data: bool) -> type[data.Dataset]:
    """The model of a section under ``datasets``."""
    kind, backend = section.get("type"), section.get("io_backend")
    if kind == data.REAL and is_training_data:
        from_lmdb = isinstance(backend, dict) and backend.get("type") == "lmdb"
        return RealESRGANOfLmdb if from_lmdb else RealESRGAN
    return data.MODELS.get(kind, data.OpenDataset) if isinstance(kind, str) else data.OpenDataset


def _inspect_structure(problems: Problems, opt: Mapping[str, Any], is_train: bool) -> None:
    """Note everything that BasicSR's pipelines would stumble over later.

    Args:
        opt: the option file's content, before BasicSR's own additions.
        is_train: whether it is to be trained with, rather than tested.

    Raises:
        UserError: at once when a key is not text.
    """
    _check_values(problems, "", opt)
    # Everything after this counts on keys being text.
    problems.raise_if_any()
    model_class = _model_class(problems, opt)
    model = options_model(opt.get("model_type"))
    top = {name: value for name, value in opt.items() if name not in APART}
    check_section(problems, "", model, top, model.needed(opt, is_train))
    components.check_networks(problems, opt)
    if opt.get("model_type") in PADDING_MODELS or pads_to_windows(opt):
        _check_window(problems, opt.get("network_g"))
    _check_datasets(problems, opt, is_train, model is not OpenOptions)
    path = subsection(problems, "path", opt, "{pretrain_network_g: ~, strict_load_g: true}")
    if path is not None:
        networks = {name.removeprefix("network_") for name in opt if name.startswith("network_")}
        files = LTEPath if opt.get("model_type") == LTE_MODEL else Path
        check_section(problems, "path", files.of_networks(sorted(networks)), path)
    _check_val(problems, opt, is_train, model)
    if is_train:
        _check_train(problems, opt, model, model_class)
        check_real_esrgan(problems, opt)
        check_esc_model(problems, opt)
        _check_logger(problems, opt)
    check_esc_lte(problems, opt, is_train)
    check_model_needs(problems, opt, model_class, is_train)
    check_channels(problems, opt)


def _check_values(problems: Problems, place: str, section: Mapping[Any, Any]) -> None:
    """BasicSR joins keys with text; ``on:`` or ``1:`` are no text in YAML.  No key of any section
    has a use for a number that is not finite."""
    for name, value in section.items():
        inner = dotted(place, name)
        if not isinstance(name, str):
            problems.add(inner, "text as a key", describe(name), f"Put it in quotes: '{name}'.")
        elif isinstance(value, dict):
            _check_values(problems, inner, value)
        else:
            _check_value(problems, inner, value)


def _check_value(problems: Problems, place: str, value: object) -> None:
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                _check_values(problems, place, item)
            else:
                _check_value(problems, place, item)
    elif isinstance(value, float) and not math.isfinite(value):
        problems.add(place, "a finite number", describe(value), "Write a number.")
    elif isinstance(value, str):
        try:
            os.fsencode(value)
        except UnicodeEncodeError as error:
            character = error.object[error.start]
            problems.add(
                place,
                f"text in {sys.getfilesystemencoding()}, the encoding of this system's file names",
                f"{describe(value)} with {character!a}",
                "Change it, or set `PYTHONUTF8=1` in the environment.",
            )


def _model_class(problems: Problems, opt: Mapping[str, Any]) -> Any:
    name = opt.get("model_type")
    found = registered(MODEL_REGISTRY, name)
    if found is None and isinstance(name, str):
        advice = unregistered(name, names(MODEL_REGISTRY), "model")
        problems.wrong("", opt, "model_type", "the name of a registered model", advice)
    return found


def _check_window(problems: Problems, network: object) -> None:
    if not isinstance(network, dict) or problems.has("network_g.window_size"):
        return
    require(problems, "network_g.window_size", network, Size, "8")


def _check_datasets(
    problems: Problems, opt: Mapping[str, Any], is_train: bool, plain: bool
) -> None:
    example = "{train: ...}" if is_train else "{test_1: ...}"
    if subsection(problems, "datasets", opt, example) is None:
        return
    for place, section in data.check_datasets(problems, opt, is_train, plain):
        training = place == "datasets.train"
        model = dataset_model(section, training)
        unread = () if training else (*data.PATCH_KEYS, *data.ERROR_KEYS)
        read = {name: value for name, value in section.items() if name not in unread}
        check_section(problems, place, model, read, model.needed(section, training))
        if "io_backend" in section and not problems.has(f"{place}.io_backend"):
            components.check_io_backend(problems, f"{place}.io_backend", section["io_backend"])


def _inner_model(model: type[Section], name: str) -> type[Section]:
    field: FieldInfo = model.model_fields[name]
    inner: type[Section] = field.annotation  # type: ignore[assignment]
    return inner


def _check_val(
    problems: Problems, opt: Mapping[str, Any], is_train: bool, model: type[Options]
) -> None:
    if is_train and opt.get("val") is None:
        if data.evaluated(opt):
            expected = "a section, as there are validation datasets"
            advice = "Add `val: {val_freq: 5000, save_img: false}`."
            problems.wrong("", opt, "val", expected, advice)
        return
    val = subsection(problems, "val", opt, "{save_img: false}")
    if val is None:
        return
    val_model = _inner_model(model, "val")
    known = check_esc_model_keys(problems, "val", val, opt)
    needed = val_model.needed(val, is_train)
    check_section(problems, "val", val_model, known, needed)
    # Any value is right there, so that pydantic has nothing to say of it.
    if isinstance(val.get("metrics"), dict):
        components.check_metrics(problems, opt, val["metrics"])


def _check_train(
    problems: Problems, opt: Mapping[str, Any], model: type[Options], model_class: Any
) -> None:
    example = "{total_iter: 500000, optim_g: ..., scheduler: ...}"
    train = subsection(problems, "train", opt, example)
    if train is None:
        return
    known = check_esc_model_keys(problems, "train", train, opt)
    check_section(problems, "train", _inner_model(model, "train"), known)
    has_loss = any(train.get(name) for name in ("pixel_opt", "perceptual_opt"))
    if needs_pixel_loss(model_class) and not has_loss:
        found = "neither pixel_opt nor perceptual_opt"
        problems.add("train.pixel_opt", "a pixel or a perceptual loss", found, _NO_LOSS)
    components.check_losses(problems, train)
    components.check_optimizers(problems, train, model_class)
    if isinstance(train.get("scheduler"), dict):
        components.check_scheduler(problems, train)


def _check_logger(problems: Problems, opt: Mapping[str, Any]) -> None:
    example = "{print_freq: 100, save_checkpoint_freq: 5000, use_tb_logger: true}"
    logger = subsection(problems, "logger", opt, example)
    if logger is None:
        return
    check_section(problems, "logger", Logger, logger)
    _check_keep_best(problems, opt, logger.get("keep_best"))
    wandb = logger.get("wandb")
    if not isinstance(wandb, dict):
        return
    if wandb.get("project") is not None and logger.get("use_tb_logger") is False:
        expected = "true, as wandb copies what TensorBoard logs"
        advice = "Write `use_tb_logger: true`, or `project: ~` under wandb."
        problems.add("logger.use_tb_logger", expected, "false", advice)


def _check_keep_best(problems: Problems, opt: Mapping[str, Any], metric: object) -> None:
    if not isinstance(metric, str) or problems.under("val"):
        return
    metrics = (opt.get("val") or {}).get("metrics") or {}
    if metric not in metrics:
        example = "Add `metrics: {psnr: {type: calculate_psnr, crop_border: 2}}` under val."
        advice = suggestion(metric, metrics) if metrics else example
        expected = "the name of a metric under val.metrics"
        problems.add("logger.keep_best", expected, describe(metric), advice)
    elif not data.evaluated(opt):
        advice = "Add one, such as `val`, or remove the key."
        expected = "at least one validation dataset"
        problems.add("logger.keep_best", expected, "none under datasets", advice)


# The keys of ESCModel alone.
OWN_KEYS = {
    "train": tuple(ESCTrain.model_fields.keys() - Train.model_fields.keys()),
    "val": tuple(ESCVal.model_fields.keys() - Val.model_fields.keys()),
}


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
    own = OWN_KEYS[place] if model not in ESC_MODELS and model in PLAIN_MODELS else ()
    for name in section:
        if name in own:
            key, advice = f"{place}.{name}", f"Write `model_type: {ESC_MODEL}`, or remove the key."
            problems.add(key, f"a key that {model} reads", f"one of {ESC_MODEL}", advice)
    return {name: value for name, value in section.items() if name not in own}


def check_esc_model(problems: Problems, opt: Mapping[str, Any]) -> None:
    """Check the rules across the keys of a training file of the model."""
    train = opt.get("train")
    if opt.get("model_type") not in ESC_MODELS or not isinstance(train, dict):
        return
    _check_accumulate(problems, opt, train)
    if train.get("checkpoint_activations") is True and not problems.under("network_g"):
        network = registered(ARCH_REGISTRY, opt["network_g"]["type"])
        if not (isinstance(network, type) and issubclass(network, (ESCFamily, ESCLTE))):
            key, found = "train.checkpoint_activations", describe(opt["network_g"]["type"])
            problems.add(key, "a network of ESC blocks", found, "Remove the key.")


def _check_accumulate(problems: Problems, opt: Mapping[str, Any], train: Mapping[str, Any]) -> None:
    parts = train.get("accumulate", 1)
    if not accepts(Size, parts) or parts == 1:
        return
    batch = (training_data(opt) or {}).get("batch_size_per_gpu")
    if accepts(Size, batch) and batch % parts:
        expected = f"a divisor of datasets.train.batch_size_per_gpu, {batch}"
        problems.wrong("train", train, "accumulate", expected, "Change one of the two.")
    perceptual = train.get("perceptual_opt")
    if isinstance(perceptual, dict) and perceptual.get("criterion") == "fro":
        expected = "1 with the criterion 'fro', which is no mean over the images of a batch"
        advice = "Write `criterion: l1` under perceptual_opt, or remove `accumulate`."
        problems.wrong("train", train, "accumulate", expected, advice)
