"""The metadata in a checkpoint file, and whether it agrees with the parameters.

The header of a .safetensors file holds text by key.  Here these are:

    esc_arch_format   1, the version of this list
    esc_arch_version  of the package that wrote the file
    network           class of the network, or spandrel's name of it
    arguments         of its constructor, JSON; not for a network that only spandrel knows
    scale             upscaling factor
    parameters        where the parameters lay before: params_ema, params or state_dict
    licence           of the weights
    training          on what and how they were trained
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from esc_arch.checkpoints.architectures import ASSUMED
from esc_arch.checkpoints.detection import Detected
from esc_arch.checkpoints.file_kinds import SAFETENSORS, kind_of
from esc_arch.errors import UserError
from esc_arch.version import __version__

__all__ = ["FORMAT", "METADATA_KEY", "describe", "metadata_of", "require_label", "with_metadata"]

FORMAT = "1"

# The key of the metadata in converted .pth files.
METADATA_KEY = "metadata"

# Several values make the same network, or none is in the keys: their shapes are compared instead.
_BY_SHAPE = {"exp_ratio", "mlp_ratio", "hier_win_ratios", "img_size", "unshuffle_mod"}


def describe(network: Detected | str, scale: int, **texts: str | None) -> dict[str, str]:
    """The metadata of a network's weights.

    Args:
        network: as it was detected, or spandrel's name of it.
        scale: upscaling factor.
        texts: ``licence``, ``training``, ``parameters``; empty ones are left out.
    """
    metadata = {
        # Other readers of such files look for it.
        "format": "pt",
        "esc_arch_format": FORMAT,
        "esc_arch_version": __version__,
        "network": network if isinstance(network, str) else network.network.__name__,
        "scale": str(scale),
    }
    if isinstance(network, Detected):
        metadata["arguments"] = json.dumps(dict(network.arguments), sort_keys=True)
    return metadata | {key: text for key, text in texts.items() if text}


def metadata_of(content: object, path: str | Path) -> dict[str, str]:
    """The metadata of a checkpoint file; empty for one that was not written here.

    Args:
        content: of the file, see :func:`esc_arch.checkpoints.state_dicts.read_checkpoint`.
        path: of the file.

    Raises:
        UserError: when it was written by a later version.
    """
    found: object = None
    if kind_of(path).form == SAFETENSORS:
        with safe_open(path, framework="pt") as file:
            found = file.metadata()
    elif isinstance(content, Mapping):
        found = content.get(METADATA_KEY)
    if not isinstance(found, Mapping) or "esc_arch_format" not in found:
        return {}
    metadata = {str(key): str(value) for key, value in found.items()}
    if metadata["esc_arch_format"] != FORMAT:
        raise UserError(
            f"{path}: expected metadata of format {FORMAT}; found format "
            f"{metadata['esc_arch_format']}, written by esc_arch "
            f"{metadata.get('esc_arch_version', 'of another version')}. Update esc_arch."
        )
    return metadata


def with_metadata(detected: Detected, metadata: Mapping[str, str], path: str | Path) -> Detected:
    """The network with the arguments that are not in its keys taken from the metadata.

    Args:
        detected: from the parameters.
        metadata: see :func:`metadata_of`; may be empty.
        path: of the file, for messages.

    Raises:
        UserError: when the parameters and the metadata say different things.
    """
    if not metadata:
        return detected
    own = detected.network.__name__
    if metadata.get("network") != own:
        raise _mislabelled(path, f"network {metadata.get('network')}", str(detected))
    require_label(own, detected.scale, str(detected), metadata, path)
    label = f"{own} with the arguments {metadata.get('arguments')}"
    try:
        arguments = json.loads(metadata["arguments"])
        labelled = Detected(
            detected.network,
            {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()},
        )
        shapes = _shapes(labelled)
    except Exception as error:  # a constructor may raise anything
        raise _mislabelled(path, label, str(detected)) from error
    for name, value in detected.arguments.items():
        if name not in _BY_SHAPE | ASSUMED and labelled.arguments.get(name, value) != value:
            label = f"{own} with {name} {labelled.arguments[name]}"
            raise _mislabelled(path, label, str(detected))
    if shapes != _shapes(detected):
        raise _mislabelled(path, label, str(detected))
    return labelled


def require_label(
    network: str, scale: int, found: str, metadata: Mapping[str, str], path: str | Path
) -> None:
    """Refuse metadata of another network or scale; there may be none.

    Args:
        network, scale: as :func:`describe` writes them.
        found: the network in a message.
        metadata: see :func:`metadata_of`.
        path: of the file, for messages.

    Raises:
        UserError: when they differ.
    """
    if metadata and (metadata.get("network"), metadata.get("scale")) != (network, str(scale)):
        label = f"{metadata.get('network')} x{metadata.get('scale')}"
        raise _mislabelled(path, label, found)


def _shapes(network: Detected) -> dict[str, tuple[int, ...]]:
    return {key: tuple(t.shape) for key, t in network.build_meta().state_dict().items()}


def _mislabelled(path: str | Path, label: str, found: str) -> UserError:
    return UserError(
        f"{path}: expected the network of its metadata, {label}; found parameters of {found}. The "
        "file was changed or labelled wrongly: download it again."
    )
