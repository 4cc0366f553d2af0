"""Layers of ESC for inference on a CPU, written in C++ (the files beside this one).

They hold nothing in memory between the operations that they join.  ``setup.py`` compiles
them where it finds a compiler; where it found none, :func:`usable` is False everywhere, and
PyTorch's operations do the work.

Shapes: B images, H x W pixels, C channels.
"""

import ctypes
import logging
import math
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from esc_arch.ops.margins import Margins
from esc_arch.ops.padding import reflected

__all__ = [
    "VECTOR",
    "aggregate",
    "attention_layer",
    "available",
    "conv_ffn",
    "symmetric_conv",
    "takes_result",
    "usable",
    "usable_in_training",
    "window_attention",
]

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
_ARGUMENTS = {
    "esc_symmetric_conv": [*[_POINTER] * 7, *[_INT] * 7],
    "esc_window_attention": [*[_POINTER] * 7, *[_INT] * 7, _FLOAT, _INT, _INT],
    "esc_window_attention_backward": [*[_POINTER] * 9, *[_INT] * 8, *[_FLOAT] * 2, *[_INT] * 2],
    "esc_attention_layer": [
        *[_POINTER] * 6,
        _FLOAT,
        *[_POINTER] * 7,
        *[_INT] * 7,
        _FLOAT,
        *[_INT] * 2,
    ],
    "esc_aggregate": [*[_POINTER] * 8, *[_INT] * 7],
    "esc_conv_ffn": [*[_POINTER] * 7, _FLOAT, *[_POINTER] * 6, *[_INT] * 8],
}
# The widest vectors to use, in floats: 16, 8 or 4.  Tests make it less, to run the kernels
# for other processors; a processor without such vectors takes the widest that it has.
lanes = 16

# Windows are put into so many groups, whose gradients of the biases are added up in parallel.
_GROUPS = 16
# Channels that fill whole vectors of every instruction set.
VECTOR = 16

_logger = logging.getLogger("basicsr.esc_arch")


@cache
def _library() -> ctypes.CDLL | None:
    folder = Path(__file__).parent
    for path in (folder / f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES):
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError as error:
                _logger.warning(f"Kernels for the CPU: expected to load {path}; found: {error}.")
                return None
            for name, arguments in _ARGUMENTS.items():
                getattr(library, name).argtypes = arguments
            return library
    return None


def available() -> bool:
    """Whether the kernels were compiled when the package was installed."""
    return _library() is not None


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
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._functorch.maybe_current_level()
        and available()
    )


@torch.library.custom_op("esc_arch::window_attention", mutates_args=(), device_types="cpu")
def window_attention(qkv: Tensor, bias: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Softmax attention in windows of a map that reflection extends to whole windows.

    Has a gradient for maps of whole windows.

    Args:
        qkv: (B, H, W, 3*h*d), channels in the order (qkv, head, channel); any H and W
            from 1; strides of any kind but the last, which is copied when it is not 1.
        bias: from :func:`esc_arch.ops.window_attention.native.prepare_bias`, whose scores
            are to the base 2.
        window: side of the window in pixels.

    Returns:
        The attended map, (B, H, W, h*d), and for the gradient the logarithms to the base 2
        of the softmax's sums, (B, H, W, h).

    Source: ESC, arXiv 2503.06671, section 3; the softmax goes by tiles of keys, as in
    FlashAttention, arXiv 2205.14135.
    """
    qkv = qkv if qkv.stride(3) == 1 else qkv.contiguous()
    batch, height, width, channels = qkv.shape
    heads = bias.shape[0]
    d = channels // 3 // heads
    result = qkv.new_empty(batch, height, width, heads * d)
    lse = qkv.new_empty(batch, height, width, heads)
    rows, columns = _places(height, width, window)
    failed = _library().esc_window_attention(
        *(qkv.data_ptr(), _strides(qkv), result.data_ptr(), lse.data_ptr(), bias.data_ptr()),
        *(rows.data_ptr(), columns.data_ptr(), batch, height, width, heads, d, window),
        *(bias.shape[2], d**-0.5 * math.log2(math.e), torch.get_num_threads(), lanes),
    )
    _check_memory(failed)
    return result, lse


@window_attention.register_fake
def _(qkv: Tensor, bias: Tensor, window: int) -> tuple[Tensor, Tensor]:
    size, channels = qkv.shape[:3], qkv.shape[3]
    return qkv.new_empty(*size, channels // 3), qkv.new_empty(*size, bias.shape[0])


@torch.library.custom_op("esc_arch::window_attention_backward", mutates_args=(), device_types="cpu")
def _window_attention_backward(
    upstream: Tensor, qkv: Tensor, result: Tensor, lse: Tensor, bias: Tensor, window: int
) -> tuple[Tensor, Tensor]:
    """Gradients for qkv and bias; the same whatever the number of threads."""
    upstream, qkv = upstream.contiguous(), qkv.contiguous()
    batch, height, width, heads = lse.shape
    d = result.shape[3] // heads
    of_qkv = torch.empty_like(qkv)
    groups = min(batch * (height // window) * (width // window), _GROUPS)
    of_bias = bias.new_empty(groups, *bias.shape)
    rows, columns = _places(height, width, window)
    scale = d**-0.5
    failed = _library().esc_window_attention_backward(
        *(upstream.data_ptr(), qkv.data_ptr(), result.data_ptr(), lse.data_ptr()),
        *(bias.data_ptr(), of_qkv.data_ptr(), of_bias.data_ptr()),
        *(rows.data_ptr(), columns.data_ptr(), batch, height, width, heads, d, window),
        *(bias.shape[2], groups, scale, scale * math.log2(math.e)),
        *(torch.get_num_threads(), lanes),
    )
    _check_memory(failed)
    # The bias has its scores to the base 2, the gradients are to the base e.
    return of_qkv, of_bias.sum(0) * math.log(2)


@_window_attention_backward.register_fake
def _(upstream, qkv, result, lse, bias, window):
    return torch.empty_like(qkv), torch.empty_like(bias)


def _keep_for_backward(ctx, inputs, output) -> None:
    qkv, bias, ctx.window = inputs
    result, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(qkv, result, lse, bias)


def _backward(ctx, upstream: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_window_attention_backward(upstream, *ctx.saved_tensors, ctx.window), None


window_attention.register_autograd(_backward, setup_context=_keep_for_backward)


def _places(height: int, width: int, window: int) -> tuple[Tensor, Tensor]:
    """Which row and column of the map stands where in the map of whole windows."""
    return tuple(reflected(side, -(-side // window) * window) for side in (height, width))


@torch.library.custom_op("esc_arch::attention_layer", mutates_args=("out",), device_types="cpu")
def attention_layer(
    x: Tensor,
    norm: list[Tensor],
    eps: float,
    to_qkv: list[Tensor],
    bias: Tensor,
    window: int,
    to_out: list[Tensor],
    out: Tensor,
) -> None:
    """``out = x + to_out(attention(to_qkv(layer_norm(x))))``, window by window.

    Args:
        x: (B, H, W, C), C a multiple of 16; strides of any kind but the last, which is
            copied when it is not 1.
        norm: weight and bias of the LayerNorm, each (C,).
        eps: what it adds to the variance.
        to_qkv, to_out: weight and bias of the 1x1 convolutions: (3*C, C, 1, 1), in the order
            (qkv, head, channel), and (C, C, 1, 1).
        bias, window: as for :func:`window_attention`.
        out: (B, H, W, C), as :func:`takes_result` allows, and not x; takes the result.

    Source: ESC, arXiv 2503.06671, section 3.
    """
    x = x if x.stride(3) == 1 else x.contiguous()
    batch, height, width, channels = x.shape
    heads = bias.shape[0]
    parameters = [p.contiguous() for p in (*norm, *to_qkv, *to_out)]
    rows, columns = _places(height, width, window)
    failed = _library().esc_attention_layer(
        *(x.data_ptr(), _strides(x), out.data_ptr(), _strides(out)),
        *(parameters[0].data_ptr(), parameters[1].data_ptr(), eps),
        *(p.data_ptr() for p in parameters[2:]),
        *(bias.data_ptr(), rows.data_ptr(), columns.data_ptr()),
        *(batch, height, width, channels, heads, window, bias.shape[2]),
        *((channels // heads) ** -0.5 * math.log2(math.e), torch.get_num_threads(), lanes),
    )
    _check_memory(failed)


@torch.library.custom_op("esc_arch::conv_ffn", mutates_args=("out",), device_types="cpu")
def conv_ffn(
    x: Tensor,
    norm: list[Tensor],
    eps: float,
    widen: list[Tensor],
    depthwise: list[Tensor],
    narrow: list[Tensor],
    out: Tensor,
    margins: Sequence[int],
) -> None:
    """LayerNorm, 1x1 convolution, GELU, 3x3 depth-wise with GELU and sum, 1x1 convolution.

    Args:
        x: (B, H', W', C), strides of any kind but the last, which is copied when it is not 1.
        norm: weight and bias of the LayerNorm, each (C,); empty for none.
        eps: what it adds to the variance.
        widen, depthwise, narrow: weight and bias of the convolutions, contiguous:
            (hidden, C, 1, 1), (hidden, 1, 3, 3) and (C', hidden, 1, 1).
        out: (B, H, W, C'), as :func:`takes_result` allows; takes the result.
        margins: rows and columns of x around the map, see :class:`esc_arch.ops.margins.Margins`.

    Source: ESC, arXiv 2503.06671.
    """
    x = x if x.stride(3) == 1 else x.contiguous()
    batch, height, width = out.shape[:3]
    channels = x.shape[3]
    inner = _inner(x, margins)
    parameters = [p.contiguous() for p in (*widen, *depthwise, *narrow)]
    failed = _library().esc_conv_ffn(
        *(inner.data_ptr(), _strides(x), (_INT * 4)(*margins), out.data_ptr(), _strides(out)),
        *((p.data_ptr() for p in norm) if norm else (None, None)),
        eps,
        *(p.data_ptr() for p in parameters),
        *(batch, height, width, channels, len(widen[1]), len(narrow[1])),
        *(torch.get_num_threads(), lanes),
    )
    _check_memory(failed)


@torch.library.custom_op("esc_arch::symmetric_conv", mutates_args=(), device_types="cpu")
def symmetric_conv(
    x: Tensor, kernel: Tensor, dynamic_kernel: Tensor, margins: Sequence[int]
) -> Tensor:
    """``conv(x, kernel) + depthwise_conv(x, dynamic_kernel)``, both with zero padding.

    Args:
        x: (B, H', W', p), p a multiple of 16; strides of any kind but the last, which is
            copied when it is not 1.
        kernel: (p, p, k, k), k odd; symmetric under the flips and turns of the square, see
            :func:`esc_arch.ops.geometric.is_symmetric`.  Pixels with the same weight are
            added up before they are multiplied: 28 products instead of 169 at k = 13.
        dynamic_kernel: (B, p, 3, 3).
        margins: rows and columns of x around the map, see :class:`esc_arch.ops.margins.Margins`.

    Returns:
        (B, H, W, p), without the margins.

    Source: ESC, arXiv 2503.06671, ConvAttn.
    """
    x = x if x.stride(3) == 1 else x.contiguous()
    inner = _inner(x, margins)
    batch, height, width, p = inner.shape
    result = x.new_empty(inner.shape)
    by_tap = dynamic_kernel.flatten(2).transpose(1, 2).contiguous()
    failed = _library().esc_symmetric_conv(
        *(inner.data_ptr(), _strides(x), (_INT * 4)(*margins), result.data_ptr()),
        *(kernel.data_ptr(), _strides(kernel)),
        *(by_tap.data_ptr(), batch, height, width, p, kernel.shape[-1]),
        *(torch.get_num_threads(), lanes),
    )
    _check_memory(failed)
    return result


@symmetric_conv.register_fake
def _(x: Tensor, kernel: Tensor, dynamic_kernel: Tensor, margins: Sequence[int]) -> Tensor:
    return x.new_empty(_inner(x, margins).shape)


@torch.library.custom_op("esc_arch::aggregate", mutates_args=("residual",), device_types="cpu")
def aggregate(first: Tensor, rest: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> None:
    """``residual += conv1x1(cat([first, rest[..., p:]]))``.

    All maps as :func:`takes_result` allows.

    Args:
        first: (B, H, W, p).
        rest: (B, H, W, C), C a multiple of 16, p < C.
        weight: (C, C, 1, 1).
        bias: (C,).
        residual: (B, H, W, C); takes the result.

    Source: ESC, arXiv 2503.06671, ConvAttn.
    """
    maps = (first, rest, residual)
    batch, height, width = rest.shape[:3]
    if all(x.is_contiguous() for x in maps):  # one long row is cut into fewer short runs
        batch, height, width = 1, 1, batch * height * width
    failed = _library().esc_aggregate(
        *(part for x in maps for part in (x.data_ptr(), _strides(x))),
        *(weight.contiguous().data_ptr(), bias.data_ptr()),
        *(batch, height, width, first.shape[3], rest.shape[3]),
        *(torch.get_num_threads(), lanes),
    )
    _check_memory(failed)


def takes_result(x: Tensor) -> bool:
    """Whether the kernels can write to a map (B, H, W, C): its rows may lie anywhere, the pixels
    of a row side by side.
    """
    return x.stride(3) == 1 and x.stride(2) == x.shape[3]


def _inner(x: Tensor, margins: Sequence[int]) -> Tensor:
    """(B, H', W', C) without its margins."""
    return Margins(*margins).inner(x.movedim(3, 1)).movedim(1, 3)


def _strides(x: Tensor) -> ctypes.Array:
    return (ctypes.c_long * x.dim())(*x.stride())


def _check_memory(failed: int) -> None:
    if failed:
        raise MemoryError("a kernel of esc_arch.native found no memory for its tiles")


@register_flop_formula(torch.ops.esc_arch.window_attention)
def _attention_flops(qkv_shape, bias_shape, window, *args, out_shape=None, **kwargs) -> int:
    batch, height, width, channels = qkv_shape
    tokens = -(-height // window) * -(-width // window) * window**2
    return 2 * batch * tokens * window**2 * (channels // 3) * 2


@register_flop_formula(torch.ops.esc_arch.window_attention_backward)
def _attention_backward_flops(upstream_shape, qkv_shape, *args, **kwargs) -> int:
    """Four products; the scores are computed anew, which is not counted."""
    window = args[-1]
    return 2 * math.prod(qkv_shape[:3]) * window**2 * (qkv_shape[3] // 3) * 4


@register_flop_formula(torch.ops.esc_arch.attention_layer)
def _attention_layer_flops(
    x_shape, norm, eps, to_qkv, bias_shape, window, to_out, *args, **kwargs
) -> int:
    products = sum(math.prod(weight) for weight, _ in (to_qkv, to_out))
    qkv_shape = (*x_shape[:3], 3 * x_shape[3])
    attention = _attention_flops(qkv_shape, bias_shape, window)
    return attention + 2 * math.prod(x_shape[:3]) * products


@register_flop_formula(torch.ops.esc_arch.conv_ffn)
def _conv_ffn_flops(
    x_shape, norm, eps, widen, depthwise, narrow, result_shape, *args, **kwargs
) -> int:
    products = sum(math.prod(weight) for weight, _ in (widen, depthwise, narrow))
    return 2 * math.prod(result_shape[:3]) * products


@register_flop_formula(torch.ops.esc_arch.aggregate)
def _aggregate_flops(first_shape, rest_shape, weight_shape, *args, **kwargs) -> int:
    return 2 * math.prod(rest_shape[:3]) * math.prod(weight_shape)


@register_flop_formula(torch.ops.esc_arch.symmetric_conv)
def _symmetric_conv_flops(
    x_shape, kernel_shape, dynamic_shape, *args, out_shape=None, **kwargs
) -> int:
    """Those of the convolutions as they are written, whatever the kernel saves of them."""
    return 2 * math.prod(out_shape[:3]) * (math.prod(kernel_shape) + 9 * x_shape[3])
