"""Rules of the files of ESCLTEModel, whose datasets have a scale each."""

import inspect
from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY

from esc_arch.options.constructors import registered
from esc_arch.options.datasets import (
    MADE,
    PAIRED,
    RANDOM_SCALE,
    SINGLE,
    Factor,
    evaluated,
    training_data,
)
from esc_arch.options.problems import Problems, describe
from esc_arch.options.sections import LTE_MODEL, PLAIN_MODELS
from esc_arch.options.types import accepts

# Of a network's forward pass.
_ARGUMENTS = ("size", "coord", "cell", "max_scale")


def check_esc_lte(problems: Problems, opt: Mapping[str, Any], is_train: bool) -> None:
    """Check the rules across the sections of a file, and what others may not have of the model."""
    data = training_data(opt)
    if opt.get("model_type") != LTE_MODEL:
        has_queries = is_train and data is not None and data.get("type") == RANDOM_SCALE
        if has_queries and opt.get("model_type") in PLAIN_MODELS:
            advice = f"Write `model_type: {LTE_MODEL}`."
            expected = "a model that trains on queries"
            problems.wrong("", opt, "model_type", expected, advice)
        return
    _check_network(problems, opt.get("network_g"))
    if opt.get("scale") is not None:
        expected = f"nothing, as {LTE_MODEL} tests each set at its own scale"
        advice = "Remove it, and write `scale: 4` into the sections of val or test sets."
        problems.add("scale", expected, describe(opt["scale"]), advice)
    for place, section in evaluated(opt):
        if not accepts(Factor, section.get("scale")) and not problems.under(f"{place}.scale"):
            expected, advice = "the scale of this set, 1 or more", "Write, for example, `scale: 4`."
            problems.wrong(place, section, "scale", expected, advice)
    if is_train and data is not None and data.get("type") in (PAIRED, SINGLE, *MADE):
        expected = f"{RANDOM_SCALE}, on whose queries {LTE_MODEL} trains"
        advice = f"Write `type: {RANDOM_SCALE}`."
        problems.wrong("datasets.train", data, "type", expected, advice)
    path: Any = opt.get("path")
    starts = ("pretrain_network_g", "pretrain_network_encoder")
    if isinstance(path, dict) and all(path.get(name) is not None for name in starts):
        expected = "one of pretrain_network_g, with its encoder, and pretrain_network_encoder"
        problems.add("path.pretrain_network_encoder", expected, "both", "Remove one.")
    val: Any = opt.get("val")
    if isinstance(val, dict) and val.get("tile") is not None and not problems.has("val.tile"):
        expected = f"nothing (~), as {LTE_MODEL} answers queries in parts and needs the whole image"
        problems.wrong("val", val, "tile", expected, "Remove the key.")


def _check_network(problems: Problems, section: Any) -> None:
    if not isinstance(section, dict) or problems.under("network_g"):
        return
    network = registered(ARCH_REGISTRY, section["type"])
    forward = getattr(network, "forward", None)
    known = inspect.signature(forward).parameters if forward is not None else {}
    if any(name not in known for name in _ARGUMENTS):
        expected = f"a network of any scale, which {LTE_MODEL} trains"
        problems.wrong("network_g", section, "type", expected, "Write `type: ESCLTE`.")
