"""From .pth to .safetensors and back, and what a checkpoint file is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from esc_arch.errors import UserError
from esc_arch.weights.checkpoint_files import PARAMETER_KEYS, parameters_of, read_checkpoint
from esc_arch.weights.detection import Detected, detect
from esc_arch.weights.metadata import (
    METADATA_KEY,
    agreed,
    agreed_by_name,
    base,
    describe,
    metadata_of,
)
from esc_arch.weights.safetensors_files import halved, write_atomically, write_safetensors

__all__ = ["Inspected", "convert", "inspect"]


@dataclass(frozen=True)
class Inspected:
    """A checkpoint file, read and compared with what it says of itself.

    Attributes:
        state: its parameters by key.
        place: the key under which they lie in the file, None for the top.
        name: such as ``esc_light x2``.
        detected: None for a network that only spandrel knows.
        scale: upscaling factor.
        metadata: empty for a file that was not written here.
    """

    state: Mapping[str, Tensor]
    place: str | None
    name: str
    detected: Detected | None
    scale: int
    metadata: Mapping[str, str]

    @property
    def parameters(self) -> int:
        """How many numbers the tensors of floating dtype hold, frozen ones included."""
        return sum(t.numel() for t in self.state.values() if t.is_floating_point())

    @property
    def dtypes(self) -> str:
        """Of the floating tensors."""
        found = {str(t.dtype) for t in self.state.values() if t.is_floating_point()}
        return ", ".join(sorted(name.removeprefix("torch.") for name in found))


def inspect(path: str | Path, parameters: str | None = None) -> Inspected:
    """Read a checkpoint file and know its network.

    Args:
        path: .pth or .safetensors.
        parameters: the key under which they lie; None for the first of
            :data:`esc_arch.weights.checkpoint_files.PARAMETER_KEYS`.

    Raises:
        UserError: when it cannot be read, is of no network that is known, or is of another
            than it says.
    """
    # Importing spandrel takes a second.
    from esc_arch.weights.foreign import load_by_spandrel

    content = read_checkpoint(path)
    state, place = parameters_of(content, path, parameters)
    metadata = metadata_of(content, path)
    detected = detect(state)
    if detected is not None:
        detected = agreed(detected, metadata, path)
        return Inspected(state, place, str(detected), detected, detected.scale, metadata)
    descriptor = load_by_spandrel(state, path)
    if descriptor is None:
        raise unknown(state, path)
    name, scale = descriptor.architecture.name, descriptor.scale
    agreed_by_name(name, scale, metadata, path)
    return Inspected(state, place, f"{name} x{scale}", None, scale, metadata)


def unknown(state: Mapping[str, Tensor], path: str | Path) -> UserError:
    """For parameters that neither this package nor spandrel knows."""
    return UserError(
        f"{path}: expected the parameters of the ESC family, of a preset or of a network that "
        f"spandrel knows; found {len(state)} tensors of another ({', '.join(list(state)[:3])}, "
        "...). Name another file; `basicsr nets` lists the presets."
    )


def convert(
    source: str | Path,
    target: str | Path,
    *,
    parameters: str | None = None,
    half: bool = False,
    licence: str = "",
    training: str = "",
    overwrite: bool = False,
) -> Inspected:
    """Write a checkpoint in the other form, or the same with other parameters or in float16.

    A .safetensors file holds one set of parameters and says of which key it was; a .pth file
    is given them under this key, ``params`` when there was none, and the metadata beside it.

    Args:
        source, target: .pth or .safetensors, by their endings.
        parameters: which set of the source to take, such as ``params_ema``; None for the first
            of ``params_ema``, ``params`` and ``state_dict``.
        half: store floating tensors as float16.
        licence, training: replace those of the source's metadata.
        overwrite: replace a file that is there.

    Returns:
        The source.

    Raises:
        UserError: when the source cannot be read or is of no known network, or the target
            exists or cannot be written.
    """
    target = Path(target)
    if target.suffix not in (".pth", ".safetensors"):
        raise UserError(
            f"{target}: expected a name that ends with .pth or .safetensors; found "
            f"{target.suffix or 'no ending'}. Name it so."
        )
    if target.exists() and not overwrite:
        raise UserError(
            f"{target}: expected no file; found one. Name another, or replace it by --overwrite."
        )
    found = inspect(source, parameters if str(source).endswith(".pth") else None)
    place = found.place or found.metadata.get("parameters")
    if parameters is not None and parameters != place:
        raise UserError(
            f"{source}: expected parameters under {parameters!r}; found those of {place!r} alone. "
            "Convert the file from which it was made."
        )
    licence = licence or found.metadata.get("licence", "")
    training = training or found.metadata.get("training", "")
    if found.detected is not None:
        metadata = describe(found.detected, licence=licence, training=training, parameters=place)
    else:
        metadata = base(found.name.rpartition(" x")[0], found.scale)
        told = {"licence": licence, "training": training, "parameters": place}
        metadata |= {key: value for key, value in told.items() if value}
    state = halved(found.state, source) if half else dict(found.state)
    if target.suffix == ".safetensors":
        write_safetensors(state, target, metadata=metadata)
    else:
        content = {place if place in PARAMETER_KEYS else "params": state, METADATA_KEY: metadata}
        write_atomically(target, lambda temporary: torch.save(content, temporary))
    return found
