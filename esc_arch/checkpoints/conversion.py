"""Writing checkpoints: a network as .safetensors, and .pth to .safetensors and back."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from esc_arch.checkpoints.detection import detect
from esc_arch.checkpoints.loading import Inspected, inspect
from esc_arch.checkpoints.locations import locate
from esc_arch.checkpoints.provenance import METADATA_KEY, describe
from esc_arch.checkpoints.state_dicts import (
    PARAMETER_KEYS,
    half_precision,
    save_durably,
    write_atomically,
)
from esc_arch.errors import UserError

__all__ = ["convert", "write_safetensors"]


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

    A .safetensors file holds one set of parameters and the key under which it lay; a .pth file
    holds them under this key, ``params`` when there was none, and the metadata beside it.

    Args:
        source: a checkpoint, its address on the web, or the name of a shipped model.
        target: .pth or .safetensors, by its ending.
        parameters: which set of the source to write, such as ``params_ema``; None for the one
            that :func:`esc_arch.checkpoints.loading.inspect` takes.
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
    if target.suffix.lower() not in (".pth", ".safetensors"):
        raise UserError(
            f"{target}: expected a name that ends with .pth or .safetensors; found "
            f"{target.suffix or 'no ending'}. Name it so."
        )
    if target.exists() and not overwrite:
        raise UserError(
            f"{target}: expected no file; found one. Name another, or replace it by --overwrite."
        )
    source = locate(source)
    is_converted = str(source).lower().endswith(".safetensors")
    found = inspect(source, None if is_converted else parameters)
    place = found.place or found.metadata.get("parameters")
    if parameters is not None and parameters != place:
        raise UserError(
            f"{source}: expected parameters under {parameters!r}; found those of {place!r} alone. "
            "Convert the file from which it was made."
        )
    metadata = describe(
        found.detected or found.name.rpartition(" x")[0],
        found.scale,
        licence=licence or found.metadata.get("licence"),
        training=training or found.metadata.get("training"),
        parameters=place,
    )
    state = half_precision(found.state, source) if half else dict(found.state)
    if target.suffix.lower() == ".safetensors":
        write_safetensors(state, target, metadata=metadata)
    else:
        content = {place if place in PARAMETER_KEYS else "params": state, METADATA_KEY: metadata}
        save_durably(target, lambda file: torch.save(content, file))
    return found


def write_safetensors(
    source: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    licence: str = "",
    training: str = "",
) -> dict[str, str]:
    """Write parameters with their metadata, atomically; a file of the name is replaced.

    Args:
        source: a network or its state dict, on any device.
        path: ends with .safetensors.
        metadata: text by key; None for that of :func:`esc_arch.checkpoints.provenance.describe`,
            of the network that is detected.
        licence, training: for that description.

    Returns:
        The metadata.

    Raises:
        UserError: when the network is unknown, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise UserError(
            f"{path}: expected a name that ends with .safetensors; found another. Name it so."
        )
    state = source.state_dict() if isinstance(source, nn.Module) else source
    if metadata is None:
        detected = detect(state)
        if detected is None:
            raise UserError(
                f"{path}: expected parameters of the ESC family or of a preset's network; found "
                "others. Give their metadata."
            )
        metadata = describe(detected, detected.scale, licence=licence, training=training)
    # Tensors may share memory, which the format refuses.
    tensors = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in state.items()
    }
    write_atomically(path, lambda temporary: save_file(tensors, temporary, dict(metadata)))
    return dict(metadata)
