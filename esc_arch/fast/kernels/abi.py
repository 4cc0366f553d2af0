"""The C ABI of the kernels: the structures of abi.hpp, field by field, loading and calling.

Shapes: B images, C channels, H x W pixels.
"""

import ctypes
import logging
from collections.abc import Sequence
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

__all__ = [
    "AggregateCall",
    "Attention",
    "AttentionLayerCall",
    "ConvFfnCall",
    "FeatureMap",
    "Kernel",
    "Layer",
    "MapSize",
    "Margins",
    "Norm",
    "Status",
    "SymmetricConvCall",
    "WindowAttentionBackwardCall",
    "WindowAttentionCall",
    "available",
    "channels_last",
    "feature_map",
    "run",
    "usable",
    "usable_in_training",
]


class Status(IntEnum):
    DONE = 0
    NO_MEMORY = 1
    OTHER_VERSION = 2


class FeatureMap(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("batch_stride", c_int64),
        ("row_stride", c_int64),
        ("column_stride", c_int64),
    ]


class MapSize(Structure):
    _fields_ = [("batch", c_int32), ("height", c_int32), ("width", c_int32)]


class Margins(Structure):
    _fields_ = [("top", c_int32), ("bottom", c_int32), ("left", c_int32), ("right", c_int32)]


class Layer(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class Norm(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("eps", c_float)]


class Kernel(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("out_stride", c_int64),
        ("in_stride", c_int64),
        ("row_stride", c_int64),
        ("column_stride", c_int64),
        ("size", c_int32),
    ]


class Attention(Structure):
    _fields_ = [
        ("bias", c_void_p),
        ("rows", c_void_p),
        ("columns", c_void_p),
        ("bias_stride", c_int64),
        ("heads", c_int32),
        ("head_channels", c_int32),
        ("window", c_int32),
        ("scale", c_float),
    ]


class ConvFfnCall(Structure):
    _fields_ = [
        ("size", c_int64),
        ("x", FeatureMap),
        ("out", FeatureMap),
        ("map", MapSize),
        ("margins", Margins),
        ("norm", Norm),
        ("widen", Layer),
        ("depthwise", Layer),
        ("narrow", Layer),
        ("channels", c_int32),
        ("hidden_channels", c_int32),
        ("out_channels", c_int32),
        ("threads", c_int32),
        ("lanes", c_int32),
    ]


class AttentionLayerCall(Structure):
    _fields_ = [
        ("size", c_int64),
        ("x", FeatureMap),
        ("out", FeatureMap),
        ("map", MapSize),
        ("norm", Norm),
        ("to_qkv", Layer),
        ("attention", Attention),
        ("to_out", Layer),
        ("channels", c_int32),
        ("threads", c_int32),
        ("lanes", c_int32),
    ]


class SymmetricConvCall(Structure):
    _fields_ = [
        ("size", c_int64),
        ("x", FeatureMap),
        ("out", FeatureMap),
        ("map", MapSize),
        ("margins", Margins),
        ("kernel", Kernel),
        ("dynamic_kernel", c_void_p),
        ("channels", c_int32),
        ("threads", c_int32),
        ("lanes", c_int32),
    ]


class AggregateCall(Structure):
    _fields_ = [
        ("size", c_int64),
        ("first", FeatureMap),
        ("rest", FeatureMap),
        ("residual", FeatureMap),
        ("map", MapSize),
        ("layer", Layer),
        ("first_channels", c_int32),
        ("channels", c_int32),
        ("threads", c_int32),
        ("lanes", c_int32),
    ]


class WindowAttentionCall(Structure):
    _fields_ = [
        ("size", c_int64),
        ("qkv", FeatureMap),
        ("out", FeatureMap),
        ("lse", c_void_p),
        ("map", MapSize),
        ("attention", Attention),
        ("threads", c_int32),
        ("lanes", c_int32),
    ]


class WindowAttentionBackwardCall(Structure):
    _fields_ = [
        ("size", c_int64),
        ("upstream", FeatureMap),
        ("qkv", FeatureMap),
        ("out", FeatureMap),
        ("lse", c_void_p),
        ("qkv_gradient", FeatureMap),
        ("bias_gradients", c_void_p),
        ("map", MapSize),
        ("attention", Attention),
        ("gradient_scale", c_float),
        ("groups", c_int32),
        ("threads", c_int32),
        ("lanes", c_int32),
    ]


# ---- the compiled library --------------------------------------------------------------------

# The widest vectors to use, in floats: 16, 8 or 4.  Tests make it less, to run the kernels
# for other processors; a processor without such vectors takes the widest that it has.
lanes = 16

_FLOAT_BYTES = 4

_logger = logging.getLogger("basicsr.esc_arch")


def available() -> bool:
    """Whether the kernels were compiled when the package was installed."""
    return library() is not None


def usable(x: Tensor) -> bool:
    """Whether the kernels take this map: float32, eager inference on a CPU.

    Compiled, traced and exported graphs, other dtypes, autocast, and whatever needs a gradient
    go by PyTorch's operations.
    """
    return usable_in_training(x) and not torch.is_grad_enabled()


def usable_in_training(x: Tensor) -> bool:
    """As :func:`usable`, for the kernels that have a gradient."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._functorch.maybe_current_level()
        and available()
    )


def run(name: str, call: ctypes.Structure) -> None:
    """Run a kernel.

    Args:
        name: of the kernel.
        call: its structure of this module, without size, threads and
            lanes.  The tensors that it points to have to outlive the call.

    Raises:
        MemoryError: when there is no memory for its tiles.
        RuntimeError: when the kernels were compiled from another version of this package.
    """
    call.size = ctypes.sizeof(call)
    call.threads = torch.get_num_threads()
    call.lanes = lanes
    kernel = getattr(library(), f"esc_{name}", None)
    status = Status.OTHER_VERSION if kernel is None else kernel(ctypes.byref(call))
    if status == Status.NO_MEMORY:
        raise MemoryError(f"the kernel {name} of esc_arch found no memory for its tiles")
    if status == Status.OTHER_VERSION:
        raise RuntimeError(
            f"the compiled kernels of esc_arch are of another version than its kernel {name}: "
            "install the package again"
        )


def channels_last(x: Tensor) -> Tensor:
    """The map, copied when the channels of its pixels do not lie side by side."""
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


def feature_map(x: Tensor, margins: Sequence[int] = (0, 0, 0, 0)) -> FeatureMap:
    """The address of a map (B, C, H, W), behind its margins of (top, bottom, left, right)."""
    batch, _, row, column = x.stride()
    first = margins[0] * row + margins[2] * column
    return FeatureMap(x.data_ptr() + first * _FLOAT_BYTES, batch, row, column)


@cache
def library() -> ctypes.CDLL | None:
    folder = Path(__file__).parent
    for path in (folder / f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES):
        if path.exists():
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                _logger.warning(f"Kernels for the CPU: expected to load {path}; found: {error}.")
                return None
    return None
