"""Checkpoint files: reading parameters without executing anything, and writing them atomically."""

import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from esc_arch.checkpoints.file_kinds import AGAIN, ONNX, SAFETENSORS, ZIP, kind_of
from esc_arch.checkpoints.wrappers import PARAMETER_KEYS, Found, find_sets
from esc_arch.errors import UserError, first_line, listed
from esc_arch.files import remedy, whole_file, write_durably

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
    "require_floats",
    "require_known",
    "save_durably",
    "sets_of",
    "write_atomically",
]

# The keys of BasicSR's training states.
TRAINING_STATE_KEYS = ("epoch", "iter", "optimizers", "schedulers")

_CHUNK_BYTES = 1 << 20
_TRIES = 5
# In PyTorch's errors about archives, which name lines of its own sources.
_INTERNAL = re.compile(r"PytorchStreamReader|enforce fail|hasRecord|miniz")

# Half precision would overflow in a sum.
_SUM_DTYPES = {torch.float16: torch.float32, torch.bfloat16: torch.float32}

# Of parameters; a network's own buffers may also be whole numbers.
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
_KNOWN = ", ".join(str(dtype).removeprefix("torch.") for dtype in _FLOATS)
_TO_FLOATS = "Convert it to float32 where it was made, or use the file that it was made from."


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

    Its first bytes decide what it is, whatever its name ends with.

    Args:
        path: a safetensors file, or one that torch.save wrote.

    Raises:
        CheckpointError: when it is of another kind, or would become larger when unpacked.
        pickle.UnpicklingError: when it holds objects that could run code.
        OSError: when it cannot be read.
        Exception: of any kind, when it is broken.
    """
    kind = kind_of(path)
    if kind.form == ONNX:
        advice = "`basicsr upscale -w` runs it, `basicsr weights show` describes it."
        raise CheckpointError(path, "a checkpoint (.pth, .safetensors)", kind.words, advice)
    if not kind.form:
        raise CheckpointError(path, "a checkpoint", kind.words, kind.advice)
    if kind.form == SAFETENSORS:
        _require_known_types(path)
        return load_file(path)
    if kind.form == ZIP:
        _compare_checksums(path)
    # BasicSR's multi-step scheduler keeps its milestones in a Counter.
    with torch.serialization.safe_globals([Counter]):
        # Not mapped: PyTorch compares the sizes of the parts then, and the file may be overwritten.
        return torch.load(path, map_location="cpu", weights_only=True)


def _require_known_types(path: str | Path) -> None:
    """Refuse the types that PyTorch lacks, at whose first tensor the reader stops."""
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  # it is no mapping
            name = file.get_slice(key).get_dtype()
            if name.startswith("F") and name not in ("F16", "F32", "F64"):
                raise _unknown(path, key, name)


def _compare_checksums(path: str | Path) -> None:
    """Compare the CRCs in a file of torch.save, which torch.load ignores: bits do flip.

    Raises:
        zipfile.BadZipFile: when a part is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            # They are 0 in files written without them on request.
            if part.CRC:
                with archive.open(part) as file:
                    while file.read(_CHUNK_BYTES):
                        pass


def read_checkpoint(path: str | Path, kind: str = "a checkpoint", if_broken: str = AGAIN) -> object:
    """The content of a checkpoint file, see :func:`read_file`.

    Args:
        path: of the file.
        kind: of file, for messages.
        if_broken: advice when the file is broken.

    Raises:
        CheckpointError: when the file is missing, broken, or holds objects that could run code.
    """
    path = Path(path)
    try:
        return _read_again(path)
    except CheckpointError as error:
        if error.found == "a folder":
            advice = f"Check the path: the current folder is {Path.cwd()}."
            raise CheckpointError(path, kind, error.found, advice) from None
        advice = if_broken if error.advice == AGAIN else error.advice
        expected = kind if error.expected == "a checkpoint" else error.expected
        raise CheckpointError(path, expected, error.found, advice) from None
    except FileNotFoundError:
        advice = f"Check the path: the current folder is {Path.cwd()}."
        raise CheckpointError(path, kind, "no such file", advice) from None
    except OSError as error:
        found = f"that it cannot be read ({error.strerror or error})"
        raise CheckpointError(path, kind, found, "Check its permissions and its disk.") from error
    except pickle.UnpicklingError as error:
        found, advice = "something else, which does not load", if_broken
        if any(name in str(error) for name in ("GLOBAL", "Unsupported")):
            found = "Python objects, which could run code when loaded"
            advice = "If you trust its source, load it there and save its state_dict alone."
        raise CheckpointError(path, f"{kind} of tensors and plain values", found, advice) from error
    except Exception as error:  # the unpickler of a garbled file may raise anything
        reason = first_line(error)
        if _INTERNAL.search(reason):
            reason = "a zip archive that PyTorch cannot read"
        found = f"a file that does not load ({reason})"
        raise CheckpointError(path, kind, found, if_broken) from error


def _read_again(path: Path) -> object:
    """As :func:`read_file`, again when the file was replaced meanwhile, as a training does."""
    for _ in range(_TRIES - 1):
        before = _version(path)
        try:
            return read_file(path)
        except Exception:
            if _version(path) == before:
                raise
    return read_file(path)


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The parameters in a checkpoint file.

    Args:
        path: of torch.save or safetensors; where the parameters lie in it is found by
            :func:`esc_arch.checkpoints.wrappers.find_sets`.

    Returns:
        Tensors by key, without the prefixes of wrappers such as DataParallel.

    Raises:
        CheckpointError: when the file is missing, broken, or holds something else.
    """
    return parameters_of(read_checkpoint(path), path)[0]


def parameters_of(
    content: object, path: str | Path, key: str | None = None
) -> tuple[dict[str, Tensor], str | None]:
    """The first set of parameters in the content of a checkpoint file.

    Args:
        content, path, key: see :func:`sets_of`.

    Returns:
        Tensors by key, see :func:`read_state_dict`, and where they lay, None for the top.

    Raises:
        CheckpointError: when there are none, or they are of a type that no parameters have, or a
            number in them is NaN or infinite.
    """
    first = sets_of(content, path, key)[0]
    require_known(first.state, path)
    require_finite(first.state, path)
    return dict(first.state), first.place


def sets_of(
    content: object, path: str | Path, key: str | None = None, others: bool = False
) -> list[Found]:
    """The sets of parameters in the content of a checkpoint file, the preferred one first.

    Args:
        content: see :func:`read_checkpoint`.
        path: of the file, for messages.
        key: under which they lie; None for all, see :func:`find_sets`.
        others: whether those count that are called a discriminator's or the like.

    Returns:
        One at least.

    Raises:
        CheckpointError: when there are none.
    """
    if isinstance(content, Mapping) and all(name in content for name in TRAINING_STATE_KEYS):
        iteration = content["iter"]
        raise CheckpointError(
            path,
            "the parameters of a network",
            f"a training state of BasicSR (iteration {iteration}), which holds none",
            f"Name the network saved with it, such as models/net_g_{iteration}.pth.",
        )
    sets = find_sets(content)
    if key is None and not others:
        sets = [found for found in sets if not found.is_other]
    if key is not None:
        chosen = [found for found in sets if found.is_under(key)]
        if sets and not chosen:
            places = listed(dict.fromkeys(found.place or "the top" for found in sets), 5)
            advice = f"Name one of these places: {places}."
            raise CheckpointError(
                path, f"parameters under {key!r}", f"the keys {_keys(content)}", advice
            )
        sets = chosen
    if not sets:
        found = f"a value ({type(content).__name__})"
        if isinstance(content, Mapping):
            found = f"the keys {_keys(content)}" if content else "none"
        raise CheckpointError(
            path,
            "parameters by name, at the top or under a key such as params",
            found,
            "Name a file with the parameters of a network.",
        )
    return sets


def _keys(content: object) -> str:
    assert isinstance(content, Mapping)
    return listed((str(key)[:80] for key in content), 10)


def require_known(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse tensors without values of a known type, or with fewer values than elements.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    for key, tensor in state.items():
        if tensor.is_meta:
            raise _unknown(path, key, "meta, without values")
        if tensor.layout != torch.strided or tensor.is_nested:
            layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
            raise _unknown(path, key, layout)
        if tensor.dtype not in _FLOATS + _WHOLE:
            raise _unknown(path, key, str(tensor.dtype).removeprefix("torch."))
        held = tensor.untyped_storage().nbytes() // tensor.element_size()
        if tensor.numel() > held:
            raise CheckpointError(
                path,
                "tensors whose numbers are all in the file",
                f"{key} of {tensor.numel()} numbers, of which the file holds {held}",
                "Save it again from contiguous tensors (`tensor.contiguous()`).",
            )


def _unknown(path: str | Path, key: str, name: str) -> CheckpointError:
    return CheckpointError(path, f"tensors of {_KNOWN}", f"{key} of type {name}", _TO_FLOATS)


def require_floats(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | Path
) -> None:
    """Refuse whole numbers where a network has floating ones.

    Args:
        own: the network's state dict.
        state: tensors by key.
        path: of the file, for messages.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    for key, tensor in state.items():
        if key in own and own[key].is_floating_point() and not tensor.is_floating_point():
            raise _unknown(path, key, str(tensor.dtype).removeprefix("torch."))


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
    _write(path, lambda: _write_whole(path, write))


def save_durably(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """As :func:`write_atomically`, for what is written to an open file."""
    _write(path, lambda: write_durably(path, write))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    with whole_file(path) as temporary:
        write(temporary)


def _write(path: Path, write: Callable[[], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    # safetensors and torch.save have errors of their own.
    except Exception as error:
        other = "Make room, or name another place."
        raise UserError(
            f"{path}: expected to write it; found {getattr(error, 'strerror', None) or error}. "
            f"{remedy(error) if isinstance(error, OSError) else other}"
        ) from error
