"""Checks that checkpoints and training states load: file, key, network."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from esc_arch.errors import listed
from esc_arch.options.constructors import complaint
from esc_arch.options.networks import build
from esc_arch.options.problems import Problems, describe
from esc_arch.options.run import Run
from esc_arch.training.checkpoints import find_newest, networks_of
from esc_arch.weights.checkpoint_files import first_nonfinite, read_file

OLDER_STATE = "Move this state away, or resume from another one by `path.resume_state`."
STATE_KEYS = ("epoch", "iter", "optimizers", "schedulers")


def inspect_checkpoints(problems: Problems, opt: Mapping[str, object], run: Run) -> None:
    """Look at the files that ``path`` names, when that section has no problem yet."""
    path = opt.get("path")
    if not isinstance(path, dict) or problems.under("path"):
        return
    networks = [key for key in opt if key.startswith("network_")]
    if run.is_train and (run.auto_resume or path.get("resume_state")):
        key, file = "path.resume_state", path.get("resume_state")
        if run.auto_resume:
            key = "--auto_resume"
            found = find_newest(Path(run.folder(opt)), networks_of(opt)).checkpoint
            file = found and str(found.state)
        if file is not None:
            iteration = _inspect_state(problems, key, file)
            # BasicSR replaces the pretrained files by the networks saved with the state.
            kept = path.get("ignore_resume_networks") or ()
            for network in (name for name in networks if name not in kept):
                if iteration is not None:
                    _inspect_saved(problems, key, opt, network, run, iteration)
            networks = [key for key in networks if key in kept]
    for key in networks:
        file = path.get(f"pretrain_{key}")
        if file is not None:
            param_key = path.get(key.replace("network", "param_key"), "params")
            _inspect_network(problems, opt, key, f"path.pretrain_{key}", file, param_key, run)


def _inspect_saved(
    problems: Problems, key: str, opt: Mapping, network: str, run: Run, iteration: int
) -> None:
    """The network that BasicSR loads beside a training state."""
    name = f"net_{network.removeprefix('network_')}_{iteration}.pth"
    file = os.path.join(run.folder(opt), "models", name)
    if not os.path.isfile(file):
        problems.add(
            key,
            f"the network saved with the training state, {file}",
            "no such file",
            OLDER_STATE
            if run.auto_resume
            else "Resume under the `name` of the experiment that saved the state.",
        )
        return
    _inspect_network(problems, opt, network, key, file, "params", run)


def _inspect_network(
    problems: Problems,
    opt: Mapping,
    key: str,
    path_key: str,
    file: str,
    param_key: str | None,
    run: Run,
) -> None:
    content = _load(problems, path_key, file, "a checkpoint (.pth)")
    if content is None:
        return
    param_name = f"path.{key.replace('network', 'param_key')}"
    # Exponential averages are loaded by this key, whatever param_key_g says.
    train = opt.get("train")
    decay = train.get("ema_decay", 0) if run.is_train and isinstance(train, dict) else 0
    wanted = {param_key: param_name}
    if key == "network_g" and isinstance(decay, (int, float)) and decay > 0:
        wanted.setdefault("params_ema", f"{path_key} (for train.ema_decay)")
    seen = []
    for name, problem_key in wanted.items():
        weights = _weights(problems, problem_key, file, content, name)
        if weights is not None and not any(weights is other for other in seen):
            seen.append(weights)
            if not problems.under(key):
                strict = opt["path"].get(key.replace("network", "strict_load"), True)
                _inspect_weights(problems, path_key, file, weights, opt[key], strict)


def _weights(
    problems: Problems, key: str, file: str, content: Mapping, name: str | None
) -> Mapping | None:
    """The state dict that BasicSR takes from a checkpoint's content."""
    if name is None:
        weights = content
    elif name in content or "params" in content:
        weights = content.get(name, content.get("params"))
    else:
        bare = bool(content) and all(torch.is_tensor(value) for value in content.values())
        problems.add(
            key,
            f"{' or '.join(dict.fromkeys((repr(name), repr('params'))))} in {file}",
            f"the keys {listed(content, 5)}",
            "The file is a bare state dict: wrap it as {'params': ...}, or, without "
            "train.ema_decay, write `param_key_g: ~`."
            if bare
            else "Write one of these keys.",
        )
        return None
    if not isinstance(weights, dict) or not all(torch.is_tensor(v) for v in weights.values()):
        place = f"'{name}' of {file}" if name else file
        problems.add(
            key,
            f"parameters by name in {place}",
            f"keys {listed(weights, 5)}" if isinstance(weights, dict) else describe(weights),
            "Write the key that holds the parameters, such as `params`.",
        )
        return None
    damaged = first_nonfinite(weights)
    if damaged is not None:
        problems.add(
            key,
            f"numbers in {file}",
            f"NaN or infinite ones in {damaged}",
            "Its training diverged or the file is damaged: name an earlier checkpoint.",
        )
        return None
    return weights


def _inspect_weights(
    problems: Problems, key: str, file: str, weights: Mapping, section: Mapping, strict: bool
) -> None:
    network = build(section)
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    own = network.state_dict()
    common = own.keys() & weights.keys()
    if not strict:
        # BasicSR leaves out what does not fit, which may be everything.
        if not any(own[name].shape == weights[name].shape for name in common):
            problems.add(
                key,
                f"parameters of {section['type']}",
                f"{file}, of which none fits",
                "Name a checkpoint of this network.",
            )
        return
    try:
        network.load_state_dict(weights, strict=True)
        return
    except Exception as error:
        reason = complaint(error)
    missing, unexpected = sorted(own.keys() - common), sorted(weights.keys() - common)
    unequal = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(common)
        if own[name].shape != weights[name].shape
    ]
    counts = (("missing", missing), ("not of this network", unexpected), ("of other size", unequal))
    found = [f"{len(n)} {what} ({listed(n, 3)})" for what, n in counts if n]
    problems.add(
        key,
        f"the {len(own)} parameters of {section['type']} with the arguments of this file",
        f"{file} with {'; '.join(found) or reason}",
        "Name a checkpoint of this network, or change the network's arguments to the checkpoint's.",
    )


def _inspect_state(problems: Problems, key: str, file: str) -> int | None:
    """The iteration of a training state, or None after noting why not."""
    state = _load(problems, key, file, "a training state (.state)", OLDER_STATE)
    if state is None:
        return None
    absent = [name for name in STATE_KEYS if name not in state]
    if absent or not isinstance(state["iter"], int):
        problems.add(
            key,
            f"a training state with {', '.join(STATE_KEYS)}",
            f"{file} with the keys {listed(state, 5)}",
            "Name a .state file of training_states/; networks go under pretrain_network_g.",
        )
        return None
    return state["iter"]


def _load(
    problems: Problems,
    key: str,
    file: str,
    what: str,
    if_broken: str = "Download or save it again.",
) -> Mapping | None:
    """The content of a checkpoint, read without running what it may hold."""
    path = os.path.expanduser(file)
    if not os.path.isfile(path):
        found = f"the folder {file}" if os.path.isdir(path) else f"no file {file}"
        problems.add(key, what, found, "Check the path; it starts at the current folder.")
        return None
    if path.endswith(".safetensors"):
        problems.add(
            key,
            f"{what}, which BasicSR reads by torch.load",
            f"{file}",
            "Load it with safetensors and save it as {'params': ...} with torch.save.",
        )
        return None
    try:
        content = read_file(path)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "GLOBAL" in text or "nsupported" in text:
            problems.add(
                key,
                f"{what} of tensors and plain values",
                f"Python objects in {file}, which could run code when loaded",
                "If you trust its source, load it there and save its state_dict alone.",
            )
        else:
            problems.add(key, what, f"{file}, which is none", if_broken)
        return None
    except Exception as error:
        problems.add(
            key,
            what,
            f"{file}, which does not load: {complaint(error)}",
            if_broken,
        )
        return None
    if not isinstance(content, dict):
        problems.add(key, what, f"{file} with a {type(content).__name__}", "Name another file.")
        return None
    return content
