"""Checkpoint files, read safely: nothing in them is executed."""

import pickle
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from esc_arch.errors import UserError

__all__ = ["PARAMETER_KEYS", "read_file", "read_state_dict"]

# Where checkpoints keep the parameters, the averaged ones first.
PARAMETER_KEYS = ("params_ema", "params", "state_dict")


def read_file(path: str | Path) -> object:
    """What a checkpoint file holds, read without running anything in it.

    Args:
        path: a .safetensors file, or one that torch.save wrote.

    Raises:
        pickle.UnpicklingError: when it holds objects that could run code.
        Exception: of any kind, when it is broken.
    """
    if str(path).endswith(".safetensors"):
        return load_file(path)
    # BasicSR's multi-step scheduler keeps its milestones in a Counter.
    with torch.serialization.safe_globals([Counter]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            # Files of PyTorch before 1.6 cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The parameters in a checkpoint file.

    Args:
        path: .pth or .safetensors; the parameters lie under ``params_ema``, ``params`` or
            ``state_dict``, which is looked for in this order, or at the top.

    Returns:
        Tensors by key, without the ``module.`` of DataParallel.

    Raises:
        UserError: when the file is missing, broken, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: expected a checkpoint; found no such file. Check the path: the current "
            f"folder is {Path.cwd()}."
        )
    try:
        content = read_file(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: expected a checkpoint of tensors and plain values; found something else, "
            "or Python objects that could run code. Save its state_dict alone."
        ) from error
    except Exception as error:  # the unpickler of a garbled file may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: expected a checkpoint; found a file that does not load ({reason}). "
            "Download or save it again."
        ) from error
    state = content
    if isinstance(content, dict):
        state = next((content[key] for key in PARAMETER_KEYS if key in content), content)
    if not isinstance(state, dict) or not state or not all(map(torch.is_tensor, state.values())):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, dict) else "none"
        raise UserError(
            f"{path}: expected parameters, at the top or under one of "
            f"{', '.join(PARAMETER_KEYS)}; found {found}. Name another file."
        )
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}
