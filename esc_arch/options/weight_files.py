"""Checks of the files of weights: checkpoints, training states, and VGG for perceptual losses."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from basicsr.archs.vgg_arch import NAMES as VGG_LAYERS
from basicsr.archs.vgg_arch import VGG_PRETRAIN_PATH
from torch import Tensor

from esc_arch.checkpoints.pretrained import (
    RESUME_ANOTHER,
    iteration_of,
    pretrained_parameters,
    read_pretrained,
    require_fit,
)
from esc_arch.checkpoints.state_dicts import CheckpointError, read_state_dict
from esc_arch.errors import UserError
from esc_arch.losses.vgg_features import fit_weights, standard_places, standard_weights
from esc_arch.options.components import VGG_LOSSES
from esc_arch.options.constructors import build
from esc_arch.options.invocation import Run
from esc_arch.options.problems import Problems
from esc_arch.options.sections import LTE_MODEL
from esc_arch.training.checkpoints import find_newest, networks_of


def inspect_checkpoints(problems: Problems, opt: Mapping[str, object], run: Run) -> None:
    """Look at the files that ``path`` names, when that section has no problem yet."""
    path = opt.get("path")
    if not isinstance(path, dict) or problems.under("path"):
        return
    networks = [key for key in opt if key.startswith("network_") and isinstance(opt[key], dict)]
    if run.is_train and (run.auto_resume or path.get("resume_state")):
        key, file = "path.resume_state", path.get("resume_state")
        if run.auto_resume:
            key = "--auto_resume"
            found = find_newest(Path(run.folder(opt)), networks_of(opt)).checkpoint
            file = found and str(found.state)
        if file is not None:
            # BasicSR replaces the pretrained files by the networks saved with the state.
            kept = path.get("ignore_resume_networks") or ()
            with _reported(problems, key):
                iteration = iteration_of(file)
                for network in (name for name in networks if name not in kept):
                    _inspect_saved(problems, key, opt, network, run, iteration)
            networks = [key for key in networks if key in kept]
    for key in networks:
        file = path.get(f"pretrain_{key}")
        if file is not None:
            param_key = path.get(key.replace("network", "param_key"), "params")
            _inspect_network(problems, opt, key, f"path.pretrain_{key}", file, param_key, run)
    if run.is_train and "network_g" in networks and not path.get("pretrain_network_g"):
        _inspect_encoder(problems, opt, path)


@contextmanager
def _reported(problems: Problems, key: str) -> Iterator[None]:
    """Note the error of a checkpoint, which ends the block, as a problem of an option."""
    try:
        yield
    except CheckpointError as error:
        problems.add(key, error.expected, f"{error.path}: {error.found}", error.advice)


def _inspect_saved(
    problems: Problems, key: str, opt: Mapping[str, object], network: str, run: Run, iteration: int
) -> None:
    """The network that BasicSR loads beside a training state."""
    name = f"net_{network.removeprefix('network_')}_{iteration}.pth"
    file = os.path.join(run.folder(opt), "models", name)
    if not os.path.isfile(file):
        by_name = "Resume under the `name` of the experiment that saved the state."
        expected = f"the network saved with the training state, {file}"
        advice = RESUME_ANOTHER if run.auto_resume else by_name
        problems.add(key, expected, "no such file", advice)
        return
    _inspect_network(problems, opt, network, key, file, "params", run)


def _inspect_network(
    problems: Problems,
    opt: Mapping[str, object],
    key: str,
    path_key: str,
    file: str,
    param_key: str | None,
    run: Run,
) -> None:
    # Exponential averages are loaded by this key, whatever param_key_g says.
    train, path, section = opt.get("train"), opt["path"], opt[key]
    decay = train.get("ema_decay", 0) if run.is_train and isinstance(train, dict) else 0
    wanted = {param_key: f"path.{key.replace('network', 'param_key')}"}
    if key == "network_g" and isinstance(decay, (int, float)) and decay > 0:
        wanted.setdefault("params_ema", f"{path_key} (for train.ema_decay)")
    assert isinstance(path, dict) and isinstance(section, dict)
    strict = path.get(key.replace("network", "strict_load"), True)
    with _reported(problems, path_key):
        content = read_pretrained(file)
        network = None if problems.under(key) else build(section)
        own = None if network is None else network.state_dict()
        sets: dict[str | None, Mapping[str, Tensor]] = {}
        for name, problem_key in wanted.items():
            with _reported(problems, problem_key):
                found = pretrained_parameters(content, file, name, own)
                sets[found.place] = found.state
        if network is not None:
            for parameters in sets.values():
                require_fit(network, parameters, file, strict)


def _inspect_encoder(
    problems: Problems, opt: Mapping[str, object], path: Mapping[str, Any]
) -> None:
    """The checkpoint of ESC with which the encoder of network_g starts."""
    key, section = "path.pretrain_network_encoder", opt["network_g"]
    file = path.get("pretrain_network_encoder")
    if file is None or opt.get("model_type") != LTE_MODEL or problems.under("network_g"):
        return
    assert isinstance(section, dict)
    encoder: Any = build(section).encoder
    with _reported(problems, key):
        content, param_key = read_pretrained(file), path.get("param_key_encoder", "params")
        found = pretrained_parameters(content, file, param_key, encoder.state_dict())
        body = {name: v for name, v in found.state.items() if not name.startswith("to_img.")}
        require_fit(encoder, body, file, strict=True)


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
        expected = f"the weights of {vgg_type} as torchvision names them"
        advice = "Use the file that belongs to vgg_type, or change vgg_type."
        problems.add(key, expected, f"{file} with {error}", advice)
