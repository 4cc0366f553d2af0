"""Checks an option file as a whole: what can be told without data or machine."""

from collections.abc import Mapping

from basicsr.utils.registry import MODEL_REGISTRY

from esc_arch.options.constructors import names, registered
from esc_arch.options.datasets import check_datasets, evaluated
from esc_arch.options.esc_model import MODEL as ESC_MODEL
from esc_arch.options.esc_model import check_esc_model, pads_to_windows
from esc_arch.options.kinds import (
    BOOL,
    COUNT,
    FOLDER_NAME,
    POSITIVE,
    SECTION,
    SEED,
    SIZE,
    TEXT,
    WORKERS,
    Kind,
    list_of,
    optional,
)
from esc_arch.options.networks import check_networks
from esc_arch.options.problems import Problems, describe, suggestion
from esc_arch.options.real_esrgan import MODELS as REAL_MODELS
from esc_arch.options.real_esrgan import check_real_esrgan, top_fields
from esc_arch.options.sections import Field, check_fields, subsection
from esc_arch.options.training import check_training
from esc_arch.options.validation import check_validation

# Models of which all keys are known; others may read more, at the top and under train, val.
PLAIN_MODELS = ("SRModel", "SwinIRModel", "ESRModel", ESC_MODEL)

# Models that pad the image to a multiple of network_g.window_size.
PADDING_MODELS = ("SwinIRModel", "ESRModel")

TOP_FIELDS = {
    "name": Field(FOLDER_NAME, "train_ESC_x2", required=True),
    "model_type": Field(TEXT, "SRModel", required=True),
    "num_gpu": Field(
        Kind("auto or a whole number of at least 0", lambda v: v == "auto" or WORKERS.accepts(v)),
        "auto",
        required=True,
    ),
    "network_g": Field(SECTION, "{type: ESC, ...}", required=True),
    "manual_seed": Field(optional(SEED), "0"),
    "find_unused_parameters": Field(BOOL, "false"),
    "dist_params": Field(SECTION, "{backend: nccl, port: 29500}"),
}

LOGGER_FIELDS = {
    "print_freq": Field(COUNT, "100", required=True),
    "save_checkpoint_freq": Field(COUNT, "5000", required=True),
    "use_tb_logger": Field(BOOL, "true", required=True),
    "wandb": Field(optional(SECTION), "{project: ~, resume_id: ~}"),
    "keep_last": Field(optional(SIZE), "3"),
    "keep_best": Field(optional(TEXT), "psnr"),
}

WANDB_FIELDS = {
    "project": Field(optional(TEXT), "~"),
    "resume_id": Field(optional(TEXT), "~"),
}


def inspect_structure(problems: Problems, opt: Mapping[str, object], is_train: bool) -> None:
    """Note everything that BasicSR's pipelines would stumble over later.

    Args:
        opt: the option file's content, before BasicSR's own additions.
        is_train: whether it is to be trained with, rather than tested.

    Raises:
        UserError: at once when a key is not text.
    """
    _check_key_types(problems, "", opt)
    # Everything after this counts on keys being text.
    problems.raise_if_any()
    model = _model(problems, opt)
    plain = opt.get("model_type") in (*PLAIN_MODELS, *REAL_MODELS)
    fields = TOP_FIELDS | top_fields(opt, is_train)
    # A model of its own may take a scale that is no whole number.
    fields["scale"] = Field(SIZE if plain else POSITIVE, "2")
    known = ("datasets", "path", "train", "val", "logger") if plain else None
    check_fields(problems, "", opt, fields, known)
    check_networks(problems, opt)
    pads = opt.get("model_type") in PADDING_MODELS or pads_to_windows(opt)
    if pads and isinstance(opt.get("network_g"), dict):
        window = {"window_size": Field(SIZE, "8", required=True)}
        check_fields(problems, "network_g", opt["network_g"], window)
    check_datasets(problems, opt, is_train, plain)
    _check_path(problems, opt)
    check_validation(problems, opt, is_train, plain)
    if is_train:
        check_training(problems, opt, plain, model)
        check_real_esrgan(problems, opt)
        check_esc_model(problems, opt)
        _check_logger(problems, opt)


def _check_key_types(problems: Problems, key: str, section: Mapping) -> None:
    """BasicSR joins keys with text; ``on:`` or ``1:`` are no text in YAML."""
    for name, value in section.items():
        inner = f"{key}.{name}" if key else str(name)
        if not isinstance(name, str):
            problems.add(inner, "text as a key", describe(name), f"Put it in quotes: '{name}'.")
        elif isinstance(value, dict):
            _check_key_types(problems, inner, value)


def _model(problems: Problems, opt: Mapping[str, object]) -> type | None:
    name = opt.get("model_type")
    model = registered(MODEL_REGISTRY, name)
    if model is None and isinstance(name, str):
        problems.add(
            "model_type",
            "the name of a registered model",
            describe(name),
            suggestion(name, names(MODEL_REGISTRY)),
        )
    return model


def _check_path(problems: Problems, opt: Mapping[str, object]) -> None:
    """``path``: BasicSR would make a folder of any key that it does not know."""
    path = subsection(problems, "path", opt, "{pretrain_network_g: ~, strict_load_g: true}")
    if path is None:
        return
    networks = {key.removeprefix("network_") for key in opt if key.startswith("network_")}
    fields = {
        "resume_state": Field(optional(TEXT), "~"),
        "ignore_resume_networks": Field(
            Kind(
                "text or a list of texts",
                lambda v: v is None or TEXT.accepts(v) or list_of(TEXT).accepts(v),
            ),
            "[network_d]",
        ),
    }
    for network in sorted(networks | {"g", "d"}):
        fields[f"pretrain_network_{network}"] = Field(optional(TEXT), "~")
        fields[f"param_key_{network}"] = Field(optional(TEXT), "params_ema")
        fields[f"strict_load_{network}"] = Field(BOOL, "true")
    check_fields(problems, "path", path, fields, known=())


def _check_logger(problems: Problems, opt: Mapping[str, object]) -> None:
    logger = subsection(
        problems,
        "logger",
        opt,
        "{print_freq: 100, save_checkpoint_freq: 5000, use_tb_logger: true}",
    )
    if logger is None:
        return
    check_fields(problems, "logger", logger, LOGGER_FIELDS, known=())
    _check_keep_best(problems, opt, logger.get("keep_best"))
    wandb = logger.get("wandb")
    if not isinstance(wandb, dict):
        return
    check_fields(problems, "logger.wandb", wandb, WANDB_FIELDS, known=())
    if wandb.get("project") is not None and logger.get("use_tb_logger") is False:
        problems.add(
            "logger.use_tb_logger",
            "true, as wandb copies what TensorBoard logs",
            "false",
            "Write `use_tb_logger: true`, or `project: ~` under wandb.",
        )


def _check_keep_best(problems: Problems, opt: Mapping[str, object], metric: object) -> None:
    if not isinstance(metric, str) or problems.under("val"):
        return
    metrics = (opt.get("val") or {}).get("metrics") or {}
    if metric not in metrics:
        problems.add(
            "logger.keep_best",
            "the name of a metric under val.metrics",
            describe(metric),
            suggestion(metric, metrics)
            if metrics
            else "Add `metrics: {psnr: {type: calculate_psnr, crop_border: 2}}` under val.",
        )
    elif not evaluated(opt):
        problems.add(
            "logger.keep_best",
            "at least one validation dataset",
            "none under datasets",
            "Add one, such as `val`, or remove the key.",
        )
