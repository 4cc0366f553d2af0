"""Checkpoint files: reading parameters without executing anything, and writing them atomically."""

import pickle
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from esc_arch.errors import UserError, first_line, listed
from esc_arch.files import remedy, whole_file

__all__ = [
    "PARAMETER_KEYS",
    "TRAINING_STATE_KEYS",
    "CheckpointError",
    "first_nonfinite",
    "half_precision",
    "parameters_of",
    "read_checkpoint",
    "read_file",
    "read_state_dict",
    "require_finite",
    "tensors_of",
    "write_atomically",
]

# Where checkpoints keep the parameters, the averaged ones first.
PARAMETER_KEYS = ("params_ema", "params", "state_dict")

# The keys of BasicSR's training states.
TRAINING_STATE_KEYS = ("epoch", "iter", "optimizers", "schedulers")

# Prefixes that DataParallel and torch.compile add to keys.
_WRAPPERS = ("module.", "_orig_mod.")

_CHUNK_BYTES = 1 << 20

# Half precision would overflow in a sum.
_SUM_DTYPES = {torch.float16: torch.float32, torch.bfloat16: torch.float32}

_DOWNLOAD_AGAIN = "Download or save it again."


class CheckpointError(UserError):
    """A checkpoint that cannot be used.

    Args:
        path: of the file.
        expected, found, advice: as in every message of :class:`UserError`; without the path.
    """

    def __init__(self, path: object, expected: str, found: str, advice: str) -> None:
        super().__init__(f"{path}: expected {expected}; found {found}. {advice}")
        self.path, self.expected, self.found, self.advice = path, expected, found, advice


def read_file(path: str | Path) -> object:
    """The content of a checkpoint file, read by ``weights_only``: nothing in it is executed.

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
    """Compare the CRCs in a file of torch.save, which torch.load ignores: bits do flip.

    Raises:
        zipfile.BadZipFile: when a part is damaged.
    """
    if not zipfile.is_zipfile(path):
        return  # of PyTorch before 1.6, which has none
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            # They are 0 in files written without them on request.
            if part.CRC:
                with archive.open(part) as file:
                    while file.read(_CHUNK_BYTES):
                        pass


def read_checkpoint(
    path: str | Path, kind: str = "a checkpoint", if_broken: str = _DOWNLOAD_AGAIN
) -> object:
    """The content of a checkpoint file, see :func:`read_file`.

    Args:
        path: of the file.
        kind: of file, for messages.
        if_broken: advice when the file is broken.

    Raises:
        CheckpointError: when the file is missing, broken, or holds objects that could run code.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        advice = f"Check the path: the current folder is {Path.cwd()}."
        raise CheckpointError(path, kind, found, advice)
    try:
        return read_file(path)
    except pickle.UnpicklingError as error:
        if _names_objects(str(error), path):
            found = "Python objects, which could run code when loaded"
            if_broken = "If you trust its source, load it there and save its state_dict alone."
        else:
            found = "something else, which does not load"
        raise CheckpointError(
            path, f"{kind} of tensors and plain values", found, if_broken
        ) from error
    except Exception as error:  # the unpickler of a garbled file may raise anything
        found = f"a file that does not load ({first_line(error)})"
        raise CheckpointError(path, kind, found, if_broken) from error


def _names_objects(refusal: str, path: Path) -> bool:
    """Whether the unpickler refused a class or a function, rather than a garbled file."""
    if any(name in refusal for name in ("GLOBAL", "Unsupported global", "Unsupported class")):
        return True
    # A pickle of a later protocol is refused before its objects are reached; text is no pickle.
    with path.open("rb") as file:
        is_pickle = file.read(1) == pickle.PROTO
    return "Unsupported operand" in refusal and (is_pickle or zipfile.is_zipfile(path))


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The parameters in a checkpoint file.

    Args:
        path: .pth or .safetensors; the parameters lie under ``params_ema``, ``params`` or
            ``state_dict``, which is looked for in this order, or at the top.

    Returns:
        Tensors by key, without the ``module.`` of DataParallel and the ``_orig_mod.`` of
        torch.compile.

    Raises:
        CheckpointError: when the file is missing, broken, or holds something else.
    """
    return parameters_of(read_checkpoint(path), path)[0]


def parameters_of(
    content: object, path: str | Path, key: str | None = None
) -> tuple[dict[str, Tensor], str | None]:
    """The parameters in the content of a checkpoint file.

    Args:
        content: see :func:`read_checkpoint`.
        path: of the file, for messages.
        key: under which they lie; None for the first of :data:`PARAMETER_KEYS`, or the top.

    Returns:
        Tensors by key, see :func:`read_state_dict`, and where they lay, None for the top.

    Raises:
        CheckpointError: when there are none, or a number in them is NaN or infinite.
    """
    if isinstance(content, Mapping) and all(name in content for name in TRAINING_STATE_KEYS):
        iteration = content["iter"]
        raise CheckpointError(
            path,
            "the parameters of a network",
            f"a training state of BasicSR (iteration {iteration}), which holds none",
            f"Name the network saved with it, such as models/net_g_{iteration}.pth.",
        )
    if isinstance(content, Mapping) and key is None:
        key = next((name for name in PARAMETER_KEYS if name in content), None)
    state = tensors_of(content, path, key)
    return {_without_prefixes(name): tensor for name, tensor in state.items()}, key


def tensors_of(content: object, path: str | Path, key: str | None) -> dict[str, Tensor]:
    """The tensors under a key of the content of a checkpoint file, or at the top.

    Args:
        content: see :func:`read_checkpoint`.
        path: of the file, for messages.
        key: None for the top.

    Raises:
        CheckpointError: when something else is there, or a number is NaN or infinite.
    """
    state = content
    if key is not None and isinstance(content, Mapping):
        if key not in content:
            found = f"the keys {listed(content, 5)}"
            raise CheckpointError(path, f"parameters under {key!r}", found, "Name one of these.")
        state = content[key]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(map(torch.is_tensor, state.values()))
        or not all(isinstance(name, str) for name in state)
    ):
        place = "at the top" if key is None else f"under {key!r}"
        found = f"a value ({type(state).__name__})"
        if isinstance(state, Mapping):
            found = f"the keys {listed(state, 10)}" if state else "none"
        advice = f"Name a file with parameters, or its key: one of {', '.join(PARAMETER_KEYS)}."
        raise CheckpointError(path, f"parameters by name, {place}", found, advice)
    require_finite(state, path)
    return dict(state)


def _without_prefixes(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def first_nonfinite(state: Mapping[str, Tensor]) -> str | None:
    """The key of the first tensor that holds a NaN or an infinity; None when there is none."""
    for key, tensor in state.items():
        if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # A sum costs a third of a test of each value; it may overflow, which the test decides.
        if not tensor.sum(dtype=_SUM_DTYPES.get(tensor.dtype)).isfinite() and not bool(
            tensor.isfinite().all()
        ):
            return key
    return None


def require_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse parameters with a NaN or an infinity.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    key = first_nonfinite(state)
    if key is not None:
        raise CheckpointError(
            path,
            "numbers",
            f"NaN or infinite ones in {key}",
            "The training diverged or the file is damaged: use an earlier checkpoint, or download "
            "it again.",
        )


def half_precision(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The parameters in float16; integers stay.

    Args:
        state: tensors by key, all finite.
        path: of their file, for messages.

    Raises:
        UserError: when a value is beyond float16.
    """
    result = {k: t.half() if t.is_floating_point() else t for k, t in state.items()}
    key = first_nonfinite(result)
    if key is not None:
        raise UserError(
            f"{path}: expected values that float16 can hold, for --half; found larger ones in "
            f"{key}. Leave --half out."
        )
    return result


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` write a temporary file in the folder, flush it and rename it.

    Raises:
        UserError: when that fails; a file that was there before is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            write(temporary)
    # safetensors and torch.save have errors of their own.
    except Exception as error:
        other = "Make room, or name another place."
        raise UserError(
            f"{path}: expected to write it; found {getattr(error, 'strerror', None) or error}. "
            f"{remedy(error) if isinstance(error, OSError) else other}"
        ) from error
