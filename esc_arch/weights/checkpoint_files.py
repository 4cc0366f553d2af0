"""Checkpoint files, read safely: nothing in them is executed."""

import pickle
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from esc_arch.errors import UserError, listed

__all__ = [
    "PARAMETER_KEYS",
    "first_nonfinite",
    "parameters_of",
    "read_checkpoint",
    "read_file",
    "read_state_dict",
    "require_finite",
]

# Where checkpoints keep the parameters, the averaged ones first.
PARAMETER_KEYS = ("params_ema", "params", "state_dict")

# What BasicSR's training states hold.
_TRAINING_STATE = ("epoch", "iter", "optimizers", "schedulers")

# Of DataParallel and torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")

_AT_ONCE = 1 << 20

# Where half precision would overflow.
_SUMMED = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


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
    _compare_checksums(path)
    # BasicSR's multi-step scheduler keeps its milestones in a Counter.
    with torch.serialization.safe_globals([Counter]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            # Files of PyTorch before 1.6 cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True)


def _compare_checksums(path: str | Path) -> None:
    """Of the parts of a file of torch.save, which torch.load leaves alone: bits do flip.

    Raises:
        zipfile.BadZipFile: when one is damaged.
    """
    if not zipfile.is_zipfile(path):
        return  # of PyTorch before 1.6, which has none
    with zipfile.ZipFile(path) as parts:
        for part in parts.infolist():
            # Written without them on request, they are 0.
            if part.CRC:
                with parts.open(part) as opened:
                    while opened.read(_AT_ONCE):
                        pass


def first_nonfinite(state: Mapping[str, Tensor]) -> str | None:
    """The key of the first tensor that holds a NaN or an infinity, if one does."""
    for key, tensor in state.items():
        if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # A sum costs a third of looking at each value, and tells unless it overflows.
        if not tensor.sum(dtype=_SUMMED.get(tensor.dtype)).isfinite() and not bool(
            tensor.isfinite().all()
        ):
            return key
    return None


def require_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse parameters of which one is no number.

    Raises:
        UserError: naming the first tensor that holds a NaN or an infinity.
    """
    damaged = first_nonfinite(state)
    if damaged is not None:
        raise UserError(
            f"{path}: expected numbers; found NaN or infinite ones in {damaged}. The training "
            "diverged or the file is damaged: take an earlier checkpoint, or its source again."
        )


def read_checkpoint(path: str | Path) -> object:
    """What a checkpoint file holds, as :func:`read_file`, or why it cannot be read.

    Raises:
        UserError: when the file is missing, broken, or holds objects that could run code.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(
            f"{path}: expected a checkpoint; found {found}. Check the path: the current "
            f"folder is {Path.cwd()}."
        )
    try:
        return read_file(path)
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


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The parameters in a checkpoint file.

    Args:
        path: .pth or .safetensors; the parameters lie under ``params_ema``, ``params`` or
            ``state_dict``, which is looked for in this order, or at the top.

    Returns:
        Tensors by key, without the ``module.`` of DataParallel and the ``_orig_mod.`` of
        torch.compile.

    Raises:
        UserError: when the file is missing, broken, or holds something else.
    """
    return parameters_of(read_checkpoint(path), path)[0]


def parameters_of(
    content: object, path: str | Path, key: str | None = None
) -> tuple[dict[str, Tensor], str | None]:
    """The parameters in what a checkpoint file holds.

    Args:
        content: see :func:`read_checkpoint`.
        path: of the file, for messages.
        key: under which they lie; None for the first of :data:`PARAMETER_KEYS`, or the top.

    Returns:
        Tensors by key, see :func:`read_state_dict`, and where they lay, None for the top.

    Raises:
        UserError: when it holds none, or a number in them is NaN or infinite.
    """
    if isinstance(content, Mapping) and all(name in content for name in _TRAINING_STATE):
        iteration = content["iter"]
        raise UserError(
            f"{path}: expected the parameters of a network; found a training state of BasicSR "
            f"(iteration {iteration}), which holds none. Name the network saved with it, such as "
            f"models/net_g_{iteration}.pth."
        )
    state = content
    if isinstance(content, Mapping):
        if key is None:
            key = next((name for name in PARAMETER_KEYS if name in content), None)
        elif key not in content:
            raise UserError(
                f"{path}: expected parameters under {key!r}; found {listed(content, 5)}. Name one "
                "that is there."
            )
        state = content if key is None else content[key]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(map(torch.is_tensor, state.values()))
        or not all(isinstance(name, str) for name in state)
    ):
        found = f"the keys {listed(content, 10)}" if isinstance(content, Mapping) else "none"
        raise UserError(
            f"{path}: expected parameters, at the top or under one of "
            f"{', '.join(PARAMETER_KEYS)}; found {found}. Name another file."
        )
    require_finite(state, path)
    return {_unwrapped(name): tensor for name, tensor in state.items()}, key


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name
