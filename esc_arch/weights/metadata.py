"""What a .safetensors file says of itself, and whether that is true.

The header of such a file holds text by key.  Here these are:

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

from esc_arch.errors import UserError
from esc_arch.version import __version__
from esc_arch.weights.checkpoint_files import read_checkpoint
from esc_arch.weights.detection import Detected

__all__ = [
    "FORMAT",
    "METADATA_KEY",
    "agreed",
    "agreed_by_name",
    "base",
    "describe",
    "metadata_of",
    "read_metadata",
]

FORMAT = "1"

# Under which converted .pth files hold it.
METADATA_KEY = "metadata"

# Several values make the same network, or none is in the keys: their shapes are compared instead.
_BY_SHAPE = {"exp_ratio", "mlp_ratio", "hier_win_ratios", "img_size", "unshuffle_mod"}
_ASSUMED = {"img_range", "category_size"}


def describe(
    detected: Detected, *, licence: str = "", training: str = "", parameters: str | None = None
) -> dict[str, str]:
    """The metadata of a network's weights; what is empty is left out."""
    arguments = json.dumps(dict(detected.arguments), sort_keys=True)
    return {
        **base(detected.network.__name__, detected.scale),
        "arguments": arguments,
        **{
            key: value
            for key, value in (
                ("parameters", parameters),
                ("licence", licence),
                ("training", training),
            )
            if value
        },
    }


def base(network: str, scale: int) -> dict[str, str]:
    """The metadata that every file has."""
    return {
        # Readers of the ecosystem look for it.
        "format": "pt",
        "esc_arch_format": FORMAT,
        "esc_arch_version": __version__,
        "network": network,
        "scale": str(scale),
    }


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a checkpoint file says of itself; empty for one that was not written here.

    Raises:
        UserError: when the file is missing or broken, or was written by a later version.
    """
    content = read_checkpoint(path)
    return metadata_of(content, path)


def metadata_of(content: object, path: str | Path) -> dict[str, str]:
    """As :func:`read_metadata`, for a file that was read already.

    Args:
        content: see :func:`esc_arch.weights.checkpoint_files.read_checkpoint`.
        path: of the file.
    """
    found: object = None
    if str(path).endswith(".safetensors"):
        with safe_open(path, framework="pt") as file:
            found = file.metadata()
    elif isinstance(content, Mapping):
        found = content.get(METADATA_KEY)
    if not isinstance(found, Mapping) or "esc_arch_format" not in found:
        return {}
    found = {str(key): str(value) for key, value in found.items()}
    if found["esc_arch_format"] != FORMAT:
        raise UserError(
            f"{path}: expected metadata of format {FORMAT}; found format "
            f"{found['esc_arch_format']}, written by esc_arch "
            f"{found.get('esc_arch_version', 'of another version')}. Update esc_arch."
        )
    return found


def agreed(detected: Detected, metadata: Mapping[str, str], path: str | Path) -> Detected:
    """The network with the arguments that the keys do not tell, taken from the metadata.

    Args:
        detected: what the parameters say.
        metadata: see :func:`read_metadata`; may be empty.
        path: of the file, for messages.

    Raises:
        UserError: when the parameters and the metadata say different things.
    """
    if not metadata:
        return detected
    own = detected.network.__name__
    if metadata.get("network") != own:
        raise _mislabelled(path, f"network {metadata.get('network')}", str(detected))
    if metadata.get("scale") != str(detected.scale):
        raise _mislabelled(path, f"{own} x{metadata.get('scale')}", str(detected))
    label = f"{own} with the arguments {metadata.get('arguments')}"
    try:
        told = json.loads(metadata["arguments"])
        said = Detected(
            detected.network, {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
        )
        shapes = _shapes(said)
    except Exception as error:  # a constructor may raise anything
        raise _mislabelled(path, label, str(detected)) from error
    for name, value in detected.arguments.items():
        if name not in _BY_SHAPE | _ASSUMED and said.arguments.get(name, value) != value:
            raise _mislabelled(path, f"{own} with {name} {said.arguments[name]}", str(detected))
    if shapes is not None and shapes != _shapes(detected):
        raise _mislabelled(path, label, str(detected))
    return said


def _shapes(network: Detected) -> dict | None:
    try:
        return {key: t.shape for key, t in network.outline().state_dict().items()}
    except UserError:  # it is not installed, which is said when it is built
        return None


def agreed_by_name(name: str, scale: int, metadata: Mapping[str, str], path: str | Path) -> None:
    """As :func:`agreed`, for a network that only spandrel knows."""
    if metadata and (metadata.get("network"), metadata.get("scale")) != (name, str(scale)):
        label = f"{metadata.get('network')} x{metadata.get('scale')}"
        raise _mislabelled(path, label, f"{name} x{scale}")


def _mislabelled(path: str | Path, label: str, found: str) -> UserError:
    return UserError(
        f"{path}: expected the network of its metadata, {label}; found parameters of {found}. The "
        "file was changed or labelled wrongly: take it from its source again."
    )
