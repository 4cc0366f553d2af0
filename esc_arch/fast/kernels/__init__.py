"""Layers of ESC on a CPU in float32, written in C++ (the files beside this one).

They hold nothing in memory between the operations that they join.  ``setup.py`` compiles
them where it finds a compiler; where it found none, :func:`usable` is False everywhere, and
PyTorch's operations do the work.

The attention has a gradient, too.  Nothing but the keys and values of one head in one window, and a
tile of its scores, is held for each core: the map is read where it lies, extended by reflection on
the way, and the biases are read from their table.

A caller asks :func:`usable` first and is responsible for the shapes: they are not checked, and
wrong ones read and write outside the maps.  Layers are ``nn.Conv2d``, or whatever has their weight
and bias, and norms what has a weight, a bias and eps.  A map whose channels do not lie side by
side is copied; one that takes a result has to be as :func:`takes_result` allows.

Shapes: B images, H x W pixels, C channels, h heads of d channels; H' x W' pixels with margins.

Source: ESC, arXiv 2503.06671; the softmax goes by tiles of keys, as in FlashAttention, arXiv
2205.14135.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from esc_arch.fast.kernels import abi
from esc_arch.fast.kernels.abi import (
    available,
    channels_last,
    feature_map,
    run,
    usable,
    usable_in_training,
)
from esc_arch.ops.padding import crop, pad_to_windows, reflected

__all__ = [
    "NO_MARGINS",
    "VECTOR",
    "Margins",
    "aggregate",
    "attend",
    "attention_layer",
    "available",
    "conv_ffn",
    "prepare_bias",
    "symmetric_conv",
    "takes_result",
    "usable",
    "usable_in_training",
    "window_attention",
]

# Channels that fill whole vectors of every instruction set.
VECTOR = 16
# Windows are put into so many groups, whose gradients of the biases are added up in parallel.
_GROUPS = 16
# The kernel reads the table by vectors of up to so many queries.
_MOST_LANES = 16


class Margins(NamedTuple):
    """How many rows and columns of a map lie around the part for which a result is wanted.

    An image that goes by tiles has them where the tile does not end with the image.
    """

    top: int
    bottom: int
    left: int
    right: int


NO_MARGINS = Margins(0, 0, 0, 0)


class Layer(Protocol):
    """A convolution, or any other module with its parameters."""

    weight: Tensor
    bias: Tensor


class Norm(Layer, Protocol):
    """A layer norm, or any other module with its parameters."""

    eps: float


def takes_result(x: Tensor) -> bool:
    """Whether the kernels can write to a map (B, C, H, W): its rows may lie anywhere, the pixels
    of a row side by side.
    """
    return x.stride(1) == 1 and x.stride(3) == x.shape[1]


def _named_in_profiles(kernel: Callable[..., None]) -> Callable[..., None]:
    # PyTorch names its own operations; a custom one takes 40 us to call, these 10.
    @functools.wraps(kernel)
    def named(*args: Any, **kwargs: Any) -> None:
        if not torch._C._autograd._profiler_enabled():
            kernel(*args, **kwargs)
            return
        with torch.profiler.record_function(f"esc_arch::{kernel.__name__}"):
            kernel(*args, **kwargs)

    return named


@_named_in_profiles
def conv_ffn(
    x: Tensor,
    norm: Norm | None,
    widen: Layer,
    depthwise: Layer,
    narrow: Layer,
    out: Tensor,
    margins: Margins = NO_MARGINS,
) -> None:
    """LayerNorm, 1x1 convolution, GELU, 3x3 depth-wise with GELU and sum, 1x1 convolution.

    Args:
        x: (B, C, H', W').
        norm: over C channels; None for none.
        widen, depthwise, narrow: their weights are (hidden, C, 1, 1), (hidden, 1, 3, 3) and
            (C', hidden, 1, 1).
        out: (B, C', H, W), not x; takes the result.
        margins: rows and columns of x around the map.
    """
    x = channels_last(x)
    parameters = _Parameters()
    call = abi.ConvFfnCall(
        x=feature_map(x, margins),
        out=feature_map(out),
        map=_size(out),
        margins=abi.Margins(*margins),
        norm=parameters.norm(norm),
        widen=parameters.layer(widen),
        depthwise=parameters.layer(depthwise),
        narrow=parameters.layer(narrow),
        channels=x.shape[1],
        hidden_channels=len(widen.bias),
        out_channels=out.shape[1],
    )
    run("conv_ffn", call)


@_named_in_profiles
def attention_layer(
    x: Tensor,
    norm: Norm,
    to_qkv: Layer,
    bias: Tensor,
    window: int,
    to_out: Layer,
    out: Tensor,
) -> None:
    """``out = x + to_out(attention(to_qkv(layer_norm(x))))``, window by window.

    Args:
        x: (B, C, H, W), C a multiple of 16.
        norm: over C channels.
        to_qkv, to_out: their weights are (3*C, C, 1, 1), in the order (qkv, head, channel), and
            (C, C, 1, 1).
        bias, window: as for :func:`window_attention`.
        out: (B, C, H, W), not x; takes the result.
    """
    x = channels_last(x)
    _, channels, height, width = x.shape
    parameters = _Parameters()
    places = _Places(height, width, window)
    call = abi.AttentionLayerCall(
        x=feature_map(x),
        out=feature_map(out),
        map=_size(out),
        norm=parameters.norm(norm),
        to_qkv=parameters.layer(to_qkv),
        attention=_attention_of(bias, window, channels, places),
        to_out=parameters.layer(to_out),
        channels=channels,
    )
    run("attention_layer", call)


@_named_in_profiles
def symmetric_conv(
    x: Tensor,
    kernel: Tensor,
    dynamic_kernel: Tensor,
    out: Tensor,
    margins: Margins = NO_MARGINS,
) -> None:
    """``out = conv(x, kernel) + depthwise_conv(x, dynamic_kernel)``, both with zero padding.

    Args:
        x: (B, p, H', W'), p a multiple of 16.
        kernel: (p, p, k, k), k odd; to the bit symmetric under the flips and quarter turns of
            the square.  Pixels with the same weight are added up before they are multiplied: 28
            products instead of 169 at k = 13.
        dynamic_kernel: (B, p, 3, 3).
        out: (B, p, H, W), not x; takes the result.
        margins: rows and columns of x around the map.
    """
    x = channels_last(x)
    by_tap = dynamic_kernel.flatten(2).transpose(1, 2).contiguous()
    call = abi.SymmetricConvCall(
        x=feature_map(x, margins),
        out=feature_map(out),
        map=_size(out),
        margins=abi.Margins(*margins),
        kernel=abi.Kernel(kernel.data_ptr(), *kernel.stride(), kernel.shape[-1]),
        dynamic_kernel=by_tap.data_ptr(),
        channels=x.shape[1],
    )
    run("symmetric_conv", call)


@_named_in_profiles
def aggregate(first: Tensor, rest: Tensor, layer: Layer, residual: Tensor) -> None:
    """``residual += layer(cat([first, rest[:, p:]]))``.

    Args:
        first: (B, p, H, W).
        rest: (B, C, H, W), C a multiple of 16, p < C.
        layer: its weight is (C, C, 1, 1).
        residual: (B, C, H, W); takes the result.
    """
    first, rest = channels_last(first), channels_last(rest)
    parameters = _Parameters()
    size = _size(residual)
    if all(_without_gaps(x) for x in (first, rest, residual)):
        # One long row is cut into fewer short runs.
        size = abi.MapSize(1, 1, size.batch * size.height * size.width)
    call = abi.AggregateCall(
        first=feature_map(first),
        rest=feature_map(rest),
        residual=feature_map(residual),
        map=size,
        layer=parameters.layer(layer),
        first_channels=first.shape[1],
        channels=rest.shape[1],
    )
    run("aggregate", call)


class _Parameters:
    """Parameters of layers for a kernel; lives as long as the copies are needed."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def layer(self, layer: Layer) -> abi.Layer:
        return abi.Layer(self._pointer(layer.weight), self._pointer(layer.bias))

    def norm(self, norm: Norm | None) -> abi.Norm:
        if norm is None:
            return abi.Norm()
        return abi.Norm(self._pointer(norm.weight), self._pointer(norm.bias), norm.eps)

    def _pointer(self, parameter: Tensor) -> int:
        self.kept.append(parameter.contiguous())
        return self.kept[-1].data_ptr()


def _size(x: Tensor) -> abi.MapSize:
    batch, _, height, width = x.shape
    return abi.MapSize(batch, height, width)


def _without_gaps(x: Tensor) -> bool:
    return takes_result(x) and x.is_contiguous(memory_format=torch.channels_last)


# ---- self-attention alone, with its gradient --------------------------------------------------


def attend(qkv: Tensor, table: Tensor, window: int) -> Tensor:
    """Attention inside the windows of a map, which reflection extends to whole windows.

    The added pixels attend like any other.

    Args:
        qkv: (B, 3*h*d, H, W), channels in the order (qkv, head, channel); any H, W from 1.
        table: (h, (2*window - 1)**2), added to the scores by relative position.
        window: side of the window in pixels.

    Returns:
        (B, h*d, H, W), channels_last.
    """
    bias = prepare_bias(table, window)
    if not torch.is_grad_enabled():
        return window_attention(qkv, bias, window)[0]
    # The kernel's gradient is for whole windows; PyTorch knows that of the padding.
    height, width = qkv.shape[2:]
    result, _ = window_attention(pad_to_windows(qkv, (window, window)), bias, window)
    return crop(result, height, width)


def prepare_bias(table: Tensor, window: int) -> Tensor:
    """The table as the kernels read it.

    Args:
        table: (h, (2*window - 1)**2).
        window: side of the window in pixels.

    Returns:
        (h, 2*window - 1, row), columns in reverse, so that they run with the queries;
        to the base 2; with zeros for queries beyond the window's edge.
    """
    side = 2 * window - 1
    table = table.view(-1, side, side).flip(2) * math.log2(math.e)
    row = window + -(-window // _MOST_LANES) * _MOST_LANES
    return F.pad(table, (0, row - side)).to(torch.float32).contiguous()


@torch.library.custom_op("esc_arch::window_attention", mutates_args=(), device_types="cpu")
def window_attention(qkv: Tensor, bias: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Softmax attention in windows of a map that reflection extends to whole windows.

    Has a gradient for maps of whole windows.

    Args:
        qkv: (B, 3*h*d, H, W), channels in the order (qkv, head, channel); any H and W from 1;
            copied when the channels of a pixel do not lie side by side.
        bias: from :func:`prepare_bias`.
        window: side of the window in pixels.

    Returns:
        The attended map, (B, h*d, H, W), channels_last, and for the gradient the log-sum-exp of
        the scores, to the base 2, (B, H, W, h).
    """
    qkv = channels_last(qkv)
    result, lse = _empty_results(qkv, bias)
    batch, channels, height, width = result.shape
    places = _Places(height, width, window)
    call = abi.WindowAttentionCall(
        qkv=feature_map(qkv),
        out=feature_map(result),
        lse=lse.data_ptr(),
        map=abi.MapSize(batch, height, width),
        attention=_attention_of(bias, window, channels, places),
    )
    run("window_attention", call)
    return result, lse


@window_attention.register_fake
def _(qkv: Tensor, bias: Tensor, window: int) -> tuple[Tensor, Tensor]:
    return _empty_results(qkv, bias)


def _empty_results(qkv: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = qkv.shape
    result = _empty_map(qkv, (batch, channels // 3, height, width))
    return result, qkv.new_empty(batch, height, width, bias.shape[0])


def _empty_map(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(
        shape, memory_format=torch.channels_last, dtype=like.dtype, device=like.device
    )


class _Places:
    """Which rows and columns of a map stand where in the map of whole windows."""

    def __init__(self, height: int, width: int, window: int) -> None:
        self.rows, self.columns = (
            reflected(side, -(-side // window) * window) for side in (height, width)
        )


def _attention_of(bias: Tensor, window: int, channels: int, places: _Places) -> abi.Attention:
    """The kernels' structure of an attention; it points to ``bias`` and ``places``.

    Args:
        bias: from :func:`prepare_bias`.
        window: side of the window in pixels.
        channels: of all heads.
        places: of the map.
    """
    heads, _, row = bias.shape
    return abi.Attention(
        bias=bias.data_ptr(),
        rows=places.rows.data_ptr(),
        columns=places.columns.data_ptr(),
        bias_stride=row,
        heads=heads,
        head_channels=channels // heads,
        window=window,
        scale=(channels // heads) ** -0.5 * math.log2(math.e),
    )


@torch.library.custom_op("esc_arch::window_attention_backward", mutates_args=(), device_types="cpu")
def _window_attention_backward(
    upstream: Tensor, qkv: Tensor, result: Tensor, lse: Tensor, bias: Tensor, window: int
) -> tuple[Tensor, Tensor]:
    """Gradients for qkv and bias; the same whatever the number of threads."""
    upstream, qkv = channels_last(upstream), channels_last(qkv)
    batch, channels, height, width = result.shape
    of_qkv = _empty_map(qkv, qkv.shape)
    groups = min(batch * (height // window) * (width // window), _GROUPS)
    of_bias = bias.new_empty(groups, *bias.shape)
    places = _Places(height, width, window)
    call = abi.WindowAttentionBackwardCall(
        upstream=feature_map(upstream),
        qkv=feature_map(qkv),
        out=feature_map(result),
        lse=lse.data_ptr(),
        qkv_gradient=feature_map(of_qkv),
        bias_gradients=of_bias.data_ptr(),
        map=abi.MapSize(batch, height, width),
        attention=_attention_of(bias, window, channels, places),
        gradient_scale=(channels // bias.shape[0]) ** -0.5,
        groups=groups,
    )
    run("window_attention_backward", call)
    # The bias has its scores to the base 2, the gradients are to the base e.
    return of_qkv, of_bias.sum(0) * math.log(2)


@_window_attention_backward.register_fake
def _(
    upstream: Tensor, qkv: Tensor, result: Tensor, lse: Tensor, bias: Tensor, window: int
) -> tuple[Tensor, Tensor]:
    return _empty_map(qkv, qkv.shape), torch.empty_like(bias)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    qkv, bias, ctx.window = inputs
    result, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(qkv, result, lse, bias)


def _backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_window_attention_backward(upstream, *ctx.saved_tensors, ctx.window), None


window_attention.register_autograd(_backward, setup_context=_keep_for_backward)


@register_flop_formula(torch.ops.esc_arch.window_attention)
def _attention_flops(
    qkv_shape: Sequence[int], bias_shape: Sequence[int], window: int, *args: Any, **kwargs: Any
) -> int:
    batch, channels, height, width = qkv_shape
    tokens = -(-height // window) * -(-width // window) * window**2
    return 2 * batch * tokens * window**2 * (channels // 3) * 2


@register_flop_formula(torch.ops.esc_arch.window_attention_backward)
def _attention_backward_flops(upstream_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Four products; the scores are computed a second time, which is not counted."""
    window = args[-1]
    return 2 * math.prod(upstream_shape) * window**2 * 4
