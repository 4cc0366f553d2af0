"""Two operations that PyTorch's exporter has no short ONNX for, written as plain ONNX.

Neither is a loop: ONNX's Loop, Scan and If are what OpenVINO, TensorRT, CoreML, DirectML and
ncnn load least of.  Their numbers of nodes depend on the network alone, so that one graph holds
for every batch and size:

- the attention goes head by head, and a few rows of queries of all windows at a time.  Its scores
  then take 128 floats for each pixel (ESC), as two maps do, and not h * n: 4 GB for an image of
  640 x 360 pixels in windows of 32;
- a depth-wise convolution whose kernel differs between images has as many groups as images times
  channels, a number that a Conv has to know beforehand.  It is a sum of nine shifted maps.

Shapes: B images, H x W pixels, p channels, N windows of all images, h heads of d channels, w the
side of a window, n = w * w its tokens.
"""

import functools
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from onnxscript import ir, opset18
from torch import Tensor

from esc_arch.export.any_scale import decode_in_onnx
from esc_arch.export.graph_values import constant, floating, ints, static
from esc_arch.ops.attention import relative_position_bias

__all__ = ["attention_of_windows", "depthwise_by_image", "onnx_translations"]

# The most blocks of queries that the attention of a layer is cut into, over all heads.  With 32,
# ESC has blocks of 128 queries; more nodes take longer to export and to load.
BLOCKS = 32
# Greater than the side of any map.
_END = 2**31 - 1


@torch.library.custom_op("esc_arch::attention_of_windows", mutates_args=())
def attention_of_windows(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v`` in each window.

    Args:
        q, v: (N, h, n, d), of float32 as all others.
        k: (N, h, d, n).
        table: (h, 2*w - 1, 2*w - 1), the bias by key minus query.

    Returns:
        (N, h, n, d).

    Source: ESC, arXiv 2503.06671, section 3.
    """
    bias = relative_position_bias(table.flatten(1), (table.shape[-1] + 1) // 2)
    return F.scaled_dot_product_attention(q, k.transpose(2, 3), v, attn_mask=bias).contiguous()


@attention_of_windows.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@torch.library.custom_op("esc_arch::depthwise_by_image", mutates_args=())
def depthwise_by_image(x: Tensor, kernel: Tensor) -> Tensor:
    """A depth-wise 3x3 convolution with a kernel for each image, and zero padding.

    Args:
        x: (B, p, H, W).
        kernel: (B, p, 3, 3).

    Returns:
        (B, p, H, W).

    Source: ESC, arXiv 2503.06671, ConvAttn.
    """
    images = [
        F.conv2d(image[None], taps[:, None], padding=1, groups=len(taps))
        for image, taps in zip(x, kernel, strict=True)
    ]
    return torch.cat(images).contiguous()


@depthwise_by_image.register_fake
def _(x: Tensor, kernel: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def onnx_translations() -> dict[Callable[..., object], Callable[..., ir.Value]]:
    """The ONNX of both, for the ``custom_translation_table`` of ``torch.onnx.export``."""
    return {
        torch.ops.esc_arch.attention_of_windows.default: _attention_in_onnx,
        torch.ops.esc_arch.depthwise_by_image.default: _depthwise_in_onnx,
        torch.ops.esc_arch.decode.default: decode_in_onnx,
        torch.ops.aten.remainder.Scalar: _remainder_in_onnx,
    }


# onnxscript's operators are annotated for eager arrays; a translation is called with values.
_ops: Any = opset18


def _attention_in_onnx(q: ir.Value, k: ir.Value, v: ir.Value, table: ir.Value) -> ir.Value:
    h, d = static(q, 1), static(q, 3)
    w = (static(table, 2) + 1) // 2
    rows_of_blocks = _offsets(w).split(_rows_of_block(w, h))
    scaled = _ops.Mul(q, floating(d**-0.5))
    heads = [_split(x, 1, h) for x in (scaled, k, v)]
    attended = []
    for q_head, k_head, v_head, by_columns in zip(
        *heads, _split(_bias_by_columns(table, q), 0, h), strict=True
    ):
        blocks = []
        for offsets, queries in zip(
            rows_of_blocks, _split(q_head, 2, len(rows_of_blocks)), strict=True
        ):
            # (1, w, r, w, w): columns of queries, their rows, rows and columns of keys.
            pairs = _ops.Gather(by_columns, constant(offsets), axis=2)
            bias = _ops.Reshape(
                _ops.Transpose(pairs, perm=[0, 2, 1, 3, 4]), ints(1, len(offsets) * w, w * w)
            )
            scores = _ops.Add(_ops.MatMul(queries, k_head), bias)
            blocks.append(_ops.MatMul(_ops.Softmax(scores, axis=-1), v_head))
        attended.append(_ops.Concat(*blocks, axis=2))
    result: ir.Value = _ops.Concat(*attended, axis=1)
    return result


def _offsets(window: int) -> Tensor:
    """(w, w): key minus query along a side, from zero."""
    side = torch.arange(window)
    return side[None] - side[:, None] + window - 1


def _rows_of_block(window: int, heads: int) -> int:
    """Rows of a window whose queries attend together: r, a divisor of w."""
    return next(
        r
        for r in range(1, window + 1)
        if window % r == 0 and (heads * window // r <= BLOCKS or r == window)
    )


def _split(x: ir.Value, axis: int, parts: int) -> list[ir.Value]:
    """Equal parts along an axis."""
    return list(_ops.Split(x, axis=axis, num_outputs=parts)) if parts > 1 else [x]


def _bias_by_columns(table: ir.Value, q: ir.Value) -> ir.Value:
    """(h, w, 2*w - 1, w): of a head, a query's column, a vertical offset and a key's column.

    Nothing but constants, it would be unfolded by programs when they load the file, all rows of
    queries of all layers: h * n * n floats of each.  The factor, 1, is none that they foresee.
    """
    images = _ops.Shape(q, start=0, end=1)
    one = _ops.Cast(_ops.Min(images, ints(1)), to=ir.DataType.FLOAT)
    offsets = _offsets((static(table, 2) + 1) // 2)
    columns = _ops.Gather(_ops.Mul(table, one), constant(offsets), axis=2)
    result: ir.Value = _ops.Transpose(columns, perm=[0, 2, 1, 3])
    return result


def _depthwise_in_onnx(x: ir.Value, kernel: ir.Value) -> ir.Value:
    padded = _ops.Pad(x, ints(0, 0, 1, 1, 0, 0, 1, 1))
    ends = (-2, -1, _END)
    parts = []
    for i, j in product(range(3), repeat=2):
        shifted = _ops.Slice(padded, ints(i, j), ints(ends[i], ends[j]), ints(2, 3))
        tap = _ops.Slice(kernel, ints(i, j), ints(i + 1, j + 1), ints(2, 3))
        parts.append(_ops.Mul(shifted, tap))
    result: ir.Value = functools.reduce(_ops.Add, parts)
    return result


def _remainder_in_onnx(x: ir.Value, divisor: ir.Value | int) -> ir.Value:
    # PyTorch's own translation stops at a divisor that is computed from the image's size.
    result: ir.Value = _ops.Mod(x, _ops.CastLike(divisor, x))
    return result
