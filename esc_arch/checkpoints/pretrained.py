"""Networks and training states as BasicSR's training loads them: ``path:`` of an option file."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from esc_arch.checkpoints.detection import detect, mismatch
from esc_arch.checkpoints.loading import set_for
from esc_arch.checkpoints.state_dicts import (
    TRAINING_STATE_KEYS,
    CheckpointError,
    read_checkpoint,
    require_finite,
    require_floats,
    require_known,
    sets_of,
)
from esc_arch.checkpoints.wrappers import PARAMETER_KEYS, Found
from esc_arch.errors import last_line, listed

__all__ = [
    "RESUME_ANOTHER",
    "iteration_of",
    "pretrained_parameters",
    "read_pretrained",
    "require_fit",
]

RESUME_ANOTHER = "Move this state away, or resume from another one by `path.resume_state`."


def read_pretrained(path: str) -> Mapping[object, object]:
    """The content of a checkpoint of any kind, see
    :func:`esc_arch.checkpoints.state_dicts.read_checkpoint`.

    Raises:
        CheckpointError: when it is missing, broken, of another form, or could run code.
    """
    return _read(path, "a checkpoint", "Download or save it again.")


def pretrained_parameters(
    content: object, path: str, key: str | None, own: Mapping[str, Tensor] | None = None
) -> Found:
    """The parameters that are loaded into a network.

    Those under the key, or else under ``params``, as BasicSR does; where there are neither and the
    key is one that BasicSR takes unasked, the first that any reader here would take.

    Args:
        content: see :func:`read_pretrained`.
        path: of the file, for messages.
        key: ``param_key_g``; None for the top.
        own: the network's state dict; of several sets, such as a generator's and a
            discriminator's, the one with these keys is taken.

    Raises:
        CheckpointError: when there are none, or of an unknown type, or a number in them is NaN or
            infinite.
    """
    sets = sets_of(content, path, None, others=own is not None)
    named: list[Found] = []
    for name in (key, "params") if key is not None else ():
        named = named or [found for found in sets if found.is_under(name)]
    if not named:
        named = sets if key in (*PARAMETER_KEYS[:2], None) else sets_of(content, path, key)
    found = named[0] if own is None else set_for(own, named)
    require_known(found.state, path)
    require_finite(found.state, path)
    return found


def require_fit(network: nn.Module, state: Mapping[str, Tensor], path: str, strict: bool) -> None:
    """Refuse parameters that do not load into a network.

    Args:
        network: is changed.
        state: see :func:`pretrained_parameters`.
        path: of the file, for messages.
        strict: whether all have to fit; otherwise one, as BasicSR ignores the others.

    Raises:
        CheckpointError: saying which do not, and of which network they are.
    """
    own, name = network.state_dict(), type(network).__name__
    require_floats(own, state, path)
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
        known = detect(state)
        of = f"those of {known}: " if known and str(known) != str(detect(own)) else ""
        raise CheckpointError(
            path,
            f"the {len(own)} parameters of {name} with the arguments of this file",
            of + (mismatch(own, state) or last_line(error)),
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
    content = read_checkpoint(file, kind, if_broken)
    if not isinstance(content, Mapping):
        found = f"a value ({type(content).__name__})"
        raise CheckpointError(path, kind, found, "Name another file.")
    return content
