"""Checks the ``val`` section, which ``basicsr test`` reads too."""

import inspect
from collections.abc import Mapping

from basicsr.utils.registry import METRIC_REGISTRY

from esc_arch.options.constructors import check_arguments, has_parameter, resolve_type
from esc_arch.options.datasets import SINGLE, evaluated
from esc_arch.options.esc_model import check_foreign_keys, own_fields
from esc_arch.options.kinds import ANY, BOOL, COUNT, SECTION, WORKERS, one_of, optional
from esc_arch.options.problems import MISSING, Problems, describe
from esc_arch.options.sections import Field, check_fields, subsection

FIELDS = {
    "save_img": Field(BOOL, "false", required=True),
    "val_freq": Field(COUNT, "5000"),
    "suffix": Field(ANY, "~  # add the experiment's name"),
    "pbar": Field(BOOL, "false"),
    "metrics": Field(optional(SECTION), "{psnr: {type: calculate_psnr, crop_border: 2}}"),
}


def check_validation(
    problems: Problems, opt: Mapping[str, object], is_train: bool, plain: bool
) -> None:
    """Check ``val``.

    Args:
        plain: whether the model is SRModel or reads the same keys.
    """
    if is_train and opt.get("val") is None:
        if evaluated(opt):
            problems.add(
                "val",
                "a section, as there are validation datasets",
                MISSING if "val" not in opt else describe(None),
                "Add `val: {val_freq: 5000, save_img: false}`.",
            )
        return
    val = subsection(problems, "val", opt, "{save_img: false}")
    if val is None:
        return
    fields = FIELDS | own_fields(opt, "val")
    required = "val_freq" if is_train else "suffix" if val.get("save_img") is True else None
    if required:
        fields[required] = fields[required]._replace(required=True)
    foreign = check_foreign_keys(problems, "val", val, opt) if plain else None
    check_fields(problems, "val", val, fields, known=foreign)
    metrics = val.get("metrics")
    for name, section in metrics.items() if isinstance(metrics, dict) else ():
        _check_metric(problems, f"val.metrics.{name}", section, opt)


def _check_metric(problems: Problems, key: str, section: object, opt: Mapping[str, object]) -> None:
    if not isinstance(section, dict):
        example = "Write, for example, `{type: calculate_psnr, crop_border: 2}`."
        problems.add(key, SECTION.text, describe(section), example)
        return
    metric = resolve_type(problems, key, section, METRIC_REGISTRY, "calculate_psnr")
    if metric is None:
        return
    check_arguments(problems, key, metric, section, supplied=("img", "img2"), extra=("better",))
    fields = {"better": Field(one_of("higher", "lower"), "higher")}
    if has_parameter(metric, "crop_border"):
        fields["crop_border"] = Field(WORKERS, "2")
    check_fields(problems, key, section, fields)
    if section["type"] in ("calculate_psnr_pt", "calculate_ssim_pt"):
        # BasicSR's validation passes arrays, and these call tensor methods.
        problems.add(
            f"{key}.type",
            "a metric of images",
            f"{describe(section['type'])}, a metric of tensors",
            f"Write `type: {section['type'].removesuffix('_pt')}`.",
        )
    elif inspect.signature(metric).parameters.get("img2") is not None:
        for dataset_key, dataset in evaluated(opt):
            if dataset.get("type") == SINGLE:
                problems.add(
                    key,
                    "datasets with ground truth",
                    f"{dataset_key} of type {SINGLE}",
                    "Remove the metric, or give the dataset's HR images as PairedImageDataset.",
                )
