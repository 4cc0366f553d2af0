"""Checks that the weights which perceptual losses read are there and fit."""

import os
from collections.abc import Mapping
from typing import Any

from basicsr.archs.vgg_arch import NAMES as VGG_LAYERS
from basicsr.archs.vgg_arch import VGG_PRETRAIN_PATH

from esc_arch.checkpoints.state_dicts import read_state_dict
from esc_arch.errors import UserError
from esc_arch.losses.vgg_features import fit_weights, standard_places, standard_weights
from esc_arch.options.components import VGG_LOSSES
from esc_arch.options.problems import Problems


def inspect_loss_files(problems: Problems, opt: Mapping[str, Any]) -> None:
    """Look at the files of every loss whose section has no problem yet."""
    train = opt.get("train")
    for name, section in train.items() if isinstance(train, dict) else ():
        key = f"train.{name}"
        if (
            name.endswith("_opt")
            and isinstance(section, dict)
            and section.get("type") in tuple(VGG_LOSSES)
            and not problems.under(key)
        ):
            _inspect_vgg(problems, key, section)


def _inspect_vgg(problems: Problems, key: str, section: Mapping[str, Any]) -> None:
    vgg_type = section.get("vgg_type", "vgg19")
    given = section.get("weights")
    if given is not None:
        _inspect_weights(problems, f"{key}.weights", os.path.expanduser(given), section, vgg_type)
        return
    ours = section["type"] != "PerceptualLoss"
    here, cache = standard_places(vgg_type)
    # BasicSR reads this one file, whatever the type, and all of it.
    places = [here if ours else VGG_PRETRAIN_PATH, cache]
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is not None:
        _inspect_weights(problems, key, found, section, vgg_type)
        return
    url = standard_weights(vgg_type)
    folders = " nor in ".join(os.path.dirname(place) for place in (here, cache))
    point = "`weights: PATH`" if ours else "`type: VGGPerceptualLoss` with `weights: PATH`"
    problems.add(
        f"{key}.weights" if ours else key,
        f"torchvision's weights of {vgg_type}, {os.path.basename(url)}",
        f"it neither in {folders}",
        f"Download it from {url} into one of these folders, or name the file where it is by "
        f"{point}. Nothing is downloaded by itself.",
    )


def _inspect_weights(
    problems: Problems, key: str, file: str, section: Mapping[str, Any], vgg_type: str
) -> None:
    whole = section["type"] == "PerceptualLoss"
    layers = VGG_LAYERS[vgg_type] if whole else section["layer_weights"]
    try:
        weights = read_state_dict(file)
        fit_weights(layers, vgg_type, weights)
        if whole and "classifier.6.bias" not in weights:
            raise ValueError("no classifier, which BasicSR loads too")
    except UserError as error:
        problems.add(key, f"the weights of {vgg_type}", f"{error}", "Or name another file.")
    except ValueError as error:
        problems.add(
            key,
            f"the weights of {vgg_type} as torchvision names them",
            f"{file} with {error}",
            "Use the file that belongs to vgg_type, or change vgg_type.",
        )
