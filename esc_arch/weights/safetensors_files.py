"""Writing checkpoints such that a killed process leaves the old file or the new one."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from esc_arch.errors import UserError
from esc_arch.files import whole_file
from esc_arch.weights.detection import detect
from esc_arch.weights.metadata import describe

__all__ = ["halved", "write_atomically", "write_safetensors"]


def write_safetensors(
    source: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    licence: str = "",
    training: str = "",
) -> dict[str, str]:
    """Write parameters with what they are of, atomically; a file of the name is replaced.

    Args:
        source: a network or its state dict, on any device.
        path: ends with .safetensors.
        metadata: text by key; None for that of :func:`esc_arch.weights.metadata.describe`,
            of the network that is detected.
        licence, training: for that description.

    Returns:
        The metadata.

    Raises:
        UserError: when the network is none that is known, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a name that ends with .safetensors. Name it so.")
    state = source.state_dict() if isinstance(source, nn.Module) else source
    if metadata is None:
        detected = detect(state)
        if detected is None:
            raise UserError(
                f"{path}: expected parameters of the ESC family or of a preset's network; found "
                "others. Give their metadata."
            )
        metadata = describe(detected, licence=licence, training=training)
    # Tensors may share memory, which the format refuses.
    tensors = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in state.items()
    }
    write_atomically(path, lambda temporary: save_file(tensors, temporary, dict(metadata)))
    return dict(metadata)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file under another name in the folder, flush it and rename it.

    Raises:
        UserError: when that fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            write(temporary)
    # safetensors and torch.save have errors of their own.
    except Exception as error:
        raise UserError(
            f"{path}: expected to write it; found {getattr(error, 'strerror', None) or error}. "
            "Make room or name another folder."
        ) from error


def halved(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The parameters in float16; integers stay.

    Args:
        state: tensors by key.
        path: of their file, for messages.

    Raises:
        UserError: when a value is beyond float16.
    """
    result = {k: t.half() if t.is_floating_point() else t for k, t in state.items()}
    for key, tensor in result.items():
        if tensor.is_floating_point() and tensor.isinf().any() and not state[key].isinf().any():
            raise UserError(
                f"{path}: expected values that float16 can hold, for --half; found larger ones in "
                f"{key}. Leave --half out."
            )
    return result
