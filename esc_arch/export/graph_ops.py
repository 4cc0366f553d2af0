"""Two operations that PyTorch's exporter has no ONNX for, written as ONNX graphs.

Both are loops (Scan, standard ONNX), so that their memory is bounded and every batch and size
runs in one graph:

- the attention of all windows holds the scores of :data:`QUERIES_PER_BLOCK` queries of one head
  in one window.  At once they would take n floats for each pixel and head, 4 GB for an image of
  640 x 360 pixels in windows of 32;
- a depth-wise convolution whose kernel differs between images has as many groups as images times
  channels, a number that a Conv has to know beforehand.

Shapes: B images, H x W pixels, p channels, N windows of all images, h heads of d channels, w the
side of a window, n = w * w its tokens, r rows of a window in a block of b = r * w queries.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import onnx.parser
import torch
import torch.nn.functional as F
from onnx import GraphProto, TensorProto
from onnxscript import ir, opset18
from torch import Tensor

from esc_arch.ops.attention import relative_position_bias

__all__ = ["attention_of_blocks", "depthwise_by_image", "onnx_translations", "rows_of_block"]

# At 1,024 keys in float32 a block's scores take 1 MB, which stays in the cache.
QUERIES_PER_BLOCK = 256


def rows_of_block(window: int) -> int:
    """Rows of a window whose queries attend together: r, a divisor of ``window``."""
    rows = range(1, QUERIES_PER_BLOCK // window + 1)
    return max((r for r in rows if window % r == 0), default=1)


@torch.library.custom_op("esc_arch::attention_of_blocks", mutates_args=())
def attention_of_blocks(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v`` in each window.

    Args:
        q: (h, w / r, N, b, d), of float32 as all others.
        k, v: (h, N, n, d).
        table: (h, 2*w - 1, 2*w - 1), the bias by key minus query.

    Returns:
        (h, w / r, N, b, d).

    Source: ESC, arXiv 2503.06671, section 3.
    """
    window = (table.shape[-1] + 1) // 2
    bias = relative_position_bias(table.flatten(1), window).view(*q.shape[:2], -1, window**2)
    result = torch.empty_like(q)
    for head, block in product(range(q.shape[0]), range(q.shape[1])):
        result[head, block] = F.scaled_dot_product_attention(
            q[head, block], k[head], v[head], attn_mask=bias[head, block]
        )
    return result


@attention_of_blocks.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    return torch.empty_like(q)


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
        torch.ops.esc_arch.attention_of_blocks.default: _attention_in_onnx,
        torch.ops.esc_arch.depthwise_by_image.default: _depthwise_in_onnx,
        torch.ops.aten.remainder.Scalar: _remainder_in_onnx,
    }


def _offsets(window: int) -> Tensor:
    """(w, w): key minus query along a side, from zero."""
    side = torch.arange(window)
    return side[None] - side[:, None] + window - 1


def _attention_in_onnx(q: ir.Value, k: ir.Value, v: ir.Value, table: ir.Value) -> ir.Value:
    blocks, queries, d = (_static(q, i) for i in (1, 3, 4))
    tokens, side = _static(k, 2), _static(table, 2)
    window, rows = (side + 1) // 2, (side + 1) // 2 // blocks
    body = _graph(
        f"""head (float[{blocks},N,{queries},{d}] q, float[N,{tokens},{d}] k,
                  float[N,{tokens},{d}] v, float[{side},{side}] table)
              => (float[{blocks},N,{queries},{d}] attended) {{
            attended = Scan <num_scan_inputs=2, body = block
              (int64[{rows},{window}] row_offsets, float[N,{queries},{d}] q_of_block)
              => (float[N,{queries},{d}] attended_of_block) {{
                bias_rows = Gather <axis=0> (table, row_offsets)
                bias_pairs = Gather <axis=2> (bias_rows, offsets)
                bias_by_query = Transpose <perm=[0,2,1,3]> (bias_pairs)
                bias = Reshape (bias_by_query, queries_by_keys)
                attended_of_block = Scan <num_scan_inputs=3, body = window
                  (float[{queries},{d}] q_of_window, float[{tokens},{d}] k_of_window,
                   float[{tokens},{d}] v_of_window)
                  => (float[{queries},{d}] attended_of_window) {{
                    scores = Gemm <transB=1, alpha={d**-0.5!r}>
                        (q_of_window, k_of_window, bias)
                    shares = Softmax <axis=-1> (scores)
                    attended_of_window = MatMul (shares, v_of_window)
                }}> (q_of_block, k, v)
            }}> (offsets_of_blocks, q)
        }}""",
        offsets=_offsets(window),
        offsets_of_blocks=_offsets(window).view(blocks, rows, window),
        queries_by_keys=torch.tensor([queries, tokens]),
    )
    return _scan(body, q, k, v, table)


def _depthwise_in_onnx(x: ir.Value, kernel: ir.Value) -> ir.Value:
    assert x.dtype is not None  # as the exporter knows it
    p, kind = _static(x, 1), {"FLOAT": "float", "FLOAT16": "float16"}[x.dtype.name]
    body = _graph(
        f"""image ({kind}[{p},H,W] x, {kind}[{p},3,3] taps) => ({kind}[{p},H,W] y) {{
            batch_of_one = Unsqueeze (x, first)
            kernel = Unsqueeze (taps, second)
            convolved = Conv <pads=[1,1,1,1], group={p}> (batch_of_one, kernel)
            y = Squeeze (convolved, first)
        }}""",
        first=torch.tensor([0]),
        second=torch.tensor([1]),
    )
    return _scan(body, x, kernel)


def _remainder_in_onnx(x: ir.Value, divisor: ir.Value | int) -> ir.Value:
    # PyTorch's own translation stops at a divisor that is computed from the image's size.
    # onnxscript's operators are annotated for eager arrays; a translation is called with values.
    ops: Any = opset18
    return ops.Mod(x, ops.CastLike(divisor, x))


def _scan(body: ir.Graph, *inputs: ir.Value) -> ir.Value:
    """A loop over the first axis of all inputs."""
    ops: Any = opset18  # annotated for eager arrays
    return ops.Scan(*inputs, body=body, num_scan_inputs=len(inputs))


def _static(value: ir.Value, axis: int) -> int:
    """A length that does not depend on the image."""
    assert value.shape is not None
    length = value.shape[axis]
    assert isinstance(length, int)
    return length


def _graph(text: str, **constants: Tensor) -> ir.Graph:
    """A loop's body from ONNX's own notation, with constants of int64."""
    graph: GraphProto = onnx.parser.parse_graph(text)
    for name, value in constants.items():
        node = onnx.helper.make_node(
            "Constant",
            [],
            [name],
            value=onnx.helper.make_tensor(
                name, TensorProto.INT64, value.shape, value.flatten().tolist()
            ),
        )
        graph.node.insert(0, node)
    return ir.serde.deserialize_graph(graph)
