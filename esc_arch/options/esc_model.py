"""Rules of the option files of ESCModel: across their keys, and for the machine."""

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY

from esc_arch.archs.esc_arch import ESCFamily
from esc_arch.options.constructors import registered
from esc_arch.options.datasets import training_data
from esc_arch.options.problems import Problems, describe
from esc_arch.options.sections import ESC_MODEL, PLAIN_MODELS, ESCTrain, ESCVal, Train, Val
from esc_arch.options.types import Size, accepts

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
    own = OWN_KEYS[place] if model != ESC_MODEL and model in PLAIN_MODELS else ()
    for name in section:
        if name in own:
            key, advice = f"{place}.{name}", f"Write `model_type: {ESC_MODEL}`, or remove the key."
            problems.add(key, f"a key that {model} reads", f"one of {ESC_MODEL}", advice)
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
