"""Networks and training states as BasicSR's training loads them: ``path:`` of an option file."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from esc_arch.checkpoints.loading import mismatch
from esc_arch.checkpoints.state_dicts import (
    TRAINING_STATE_KEYS,
    CheckpointError,
    read_checkpoint,
    tensors_of,
)
from esc_arch.errors import last_line, listed

__all__ = [
    "RESUME_ANOTHER",
    "iteration_of",
    "key_of",
    "pretrained_parameters",
    "read_pretrained",
    "require_fit",
]

RESUME_ANOTHER = "Move this state away, or resume from another one by `path.resume_state`."


def read_pretrained(path: str) -> Mapping[object, object]:
    """The content of a file that BasicSR reads by torch.load.

    Raises:
        CheckpointError: when it is missing, broken, of another form, or could run code.
    """
    return _read(path, "a checkpoint (.pth)", "Download or save it again.")


def key_of(content: Mapping[object, object], key: str | None) -> str | None:
    """The key of the parameters that BasicSR loads: the key itself, or else ``params``."""
    return key if key is None or key in content else "params"


def pretrained_parameters(
    content: Mapping[object, object], path: str, key: str | None
) -> dict[str, Tensor]:
    """The parameters that BasicSR loads, see :func:`key_of`.

    Args:
        content: see :func:`read_pretrained`.
        path: of the file, for messages.
        key: ``param_key_g``; None for the top.

    Raises:
        CheckpointError: when there are none, or a number in them is NaN or infinite.
    """
    place = key_of(content, key)
    if place is not None and place not in content:
        bare = bool(content) and all(torch.is_tensor(value) for value in content.values())
        raise CheckpointError(
            path,
            f"parameters under {key!r}" + (" or 'params'" if key != "params" else ""),
            f"the keys {listed(content, 5)}",
            "The file is a bare state dict: wrap it as {'params': ...}, or, without "
            "train.ema_decay, write `param_key_g: ~`."
            if bare
            else "Write one of these keys.",
        )
    state = tensors_of(content, path, place)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def require_fit(network: nn.Module, state: Mapping[str, Tensor], path: str, strict: bool) -> None:
    """Refuse parameters that do not load into a network.

    Args:
        network: is changed.
        state: see :func:`pretrained_parameters`.
        path: of the file, for messages.
        strict: whether all have to fit; otherwise one, as BasicSR ignores the others.

    Raises:
        CheckpointError: saying which do not.
    """
    own, name = network.state_dict(), type(network).__name__
    if not strict:
        if not any(key in state and own[key].shape == state[key].shape for key in own):
            raise CheckpointError(
                path,
                f"parameters of {name}",
                "those of another network, of which none fits",
                "Name a checkpoint of this network.",
            )
        return
    try:
        # A network may adapt parameters, such as the upsampler's of another scale.
        network.load_state_dict(dict(state), strict=True)
    except Exception as error:
        raise CheckpointError(
            path,
            f"the {len(own)} parameters of {name} with the arguments of this file",
            mismatch(own, state) or last_line(error),
            "Name a checkpoint of this network, or change the network's arguments to the "
            "checkpoint's.",
        ) from error


def iteration_of(path: str) -> int:
    """The iteration of a training state.

    Raises:
        CheckpointError: as :func:`read_pretrained`, or when it is no training state.
    """
    state = _read(path, "a training state (.state)", RESUME_ANOTHER)
    iteration = state.get("iter")
    if not isinstance(iteration, int) or not all(name in state for name in TRAINING_STATE_KEYS):
        raise CheckpointError(
            path,
            f"a training state with {', '.join(TRAINING_STATE_KEYS)}",
            f"the keys {listed(state, 5)}",
            "Name a .state file of training_states/; networks go under pretrain_network_g.",
        )
    return iteration


def _read(path: str, kind: str, if_broken: str) -> Mapping[object, object]:
    # As BasicSR expands it, which leaves the ~ of an unknown user as it is.
    file = Path(os.path.expanduser(path))
    if file.suffix == ".safetensors" and file.is_file():
        raise CheckpointError(
            path,
            f"{kind}, which BasicSR reads by torch.load",
            "a .safetensors file",
            f"Convert it: basicsr weights convert {file} {file.with_suffix('.pth')}",
        )
    content = read_checkpoint(file, kind, if_broken)
    if not isinstance(content, Mapping):
        found = f"a value ({type(content).__name__})"
        raise CheckpointError(path, kind, found, "Name another file.")
    return content
