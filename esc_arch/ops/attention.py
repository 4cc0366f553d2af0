"""Attention inside windows, with a learned bias by relative position: all back-ends.

Every back-end gives the same numbers within the tolerance of its precision.  :func:`choose` picks
one; the kernel for CPUs of :mod:`esc_arch.fast` enters itself as :data:`KERNEL`.

Shapes: B images, H x W pixels of a map, w the side of a window, n = w*w tokens of a window, h heads
of d channels.
"""

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from esc_arch.ops.padding import crop, pad_to_windows

__all__ = [
    "ATTENTION_TYPES",
    "Backend",
    "attend_tokens",
    "choose",
    "goes_by_blocks",
    "register_kernel",
    "relative_position_bias",
    "window_attention",
    "window_merge",
    "window_partition",
]

# Attention of a whole map, (B, 3*h*d, H, W) -> (B, h*d, H, W), with the table of biases and w.
Backend = Callable[[Tensor, Tensor, int], Tensor]

ATTENTION_TYPES = ("auto", "naive", "sdpa", "flex")

# Pixels of a map from which PyTorch's attention goes block by block on a CPU, see _sdpa_by_blocks;
# and the queries of a block: with 1,024 keys in float32 its bias takes 1 MB.
LARGE_MAP = 20_000
QUERIES_PER_BLOCK = 256

_logger = logging.getLogger("basicsr.esc_arch")
announced: set[str] = set()


def window_attention(qkv: Tensor, table: Tensor, window: int, attn_type: str = "auto") -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v`` inside each window of a map.

    Reflection extends the map to whole windows; the added pixels attend like any other.  Windows
    are neither shifted nor masked.

    Args:
        qkv: (B, 3*h*d, H, W), channels in the order (qkv, head, channel); any H and W from 1.
        table: (h, (2*w - 1)**2), the biases by relative position.
        window: w in pixels.
        attn_type: one of :data:`ATTENTION_TYPES`.

    Returns:
        (B, h*d, H, W), dtype of qkv.

    Source: ESC, arXiv 2503.06671, section 3; the table is that of Swin, arXiv 2103.14030, by key
    minus query.
    """
    return choose(attn_type, qkv)(qkv, table, window)


# ---- which back-end --------------------------------------------------------------------------


class _Kernel(NamedTuple):
    attend: Backend
    takes: Callable[[Tensor], bool]


KERNEL: _Kernel | None = None


def register_kernel(attend: Backend, takes: Callable[[Tensor], bool]) -> None:
    """Register the kernel that ``auto`` uses for the maps that it supports."""
    global KERNEL
    KERNEL = _Kernel(attend, takes)


def choose(attn_type: str, x: Tensor) -> Backend:
    """The back-end for a map, by its device and mode.

    Args:
        attn_type: one of :data:`ATTENTION_TYPES`.  ``auto`` is the kernel of this package where
            there is one, otherwise ``sdpa``, which works everywhere.
        x: (B, C, H, W), the map.
    """
    kind = x.device.type
    if attn_type == "auto" and KERNEL is not None and KERNEL.takes(x):
        _say_once(f"Window attention: auto takes the package's own kernel on {kind}.")
        return KERNEL.attend
    if attn_type == "flex" and _flex_runs(kind):
        return _flex_attention
    if attn_type == "flex":
        mode = "training" if torch.is_grad_enabled() else "inference"
        _say_once(f"Window attention: flex has no {mode} on {kind}, taking sdpa.")
    if attn_type == "auto":
        _say_once(f"Window attention: auto takes sdpa on {kind}.")
    return functools.partial(_with_whole_bias, attend_tokens(attn_type, x))


def attend_tokens(attn_type: str, x: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """As :func:`choose`, for tokens and biases that are there already.

    Returns:
        A function of q, k, v, each (windows, h, n, d), and the biases of all pairs, (1, h, n, n),
        queries first, to (windows, h, n, d).
    """
    if attn_type == "naive":
        return _naive
    return _sdpa_by_blocks if goes_by_blocks(x) else _sdpa


def goes_by_blocks(x: Tensor) -> bool:
    """Whether PyTorch's attention of a map (B, C, H, W) goes in parts: a large one on a CPU."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x.shape[0] * x.shape[2] * x.shape[3] > LARGE_MAP


def _say_once(message: str) -> None:
    # A compiled graph cannot hold a log call.
    if not torch.compiler.is_compiling() and message not in announced:
        announced.add(message)
        _logger.info(message)


# ---- the back-ends ---------------------------------------------------------------------------


def _naive(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Step by step: the reference for the others."""
    # Scores of half-precision inputs may lie beyond what half precision holds.
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).transpose(-2, -1)
    scores = scores + bias.to(wide)
    return scores.softmax(dim=-1).to(v.dtype) @ v


def _sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention, the bias as its mask.

    In training the bias needs a gradient, which PyTorch's flash kernels do not give: it then
    picks the memory-efficient kernel (CUDA) or the plain one (CPU) itself.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))


def _sdpa_by_blocks(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """For inference on a CPU, one head and a few rows of queries at a time.

    PyTorch's flash kernel reads the whole bias of a window, 16 MB at 32 x 32 pixels and four heads,
    once for every window.  Here a block of queries attends in all windows before the next one does,
    so that its part of the bias stays in the cache.
    """
    bias = bias.to(q.dtype)
    result = torch.empty_like(q)
    for head in range(q.shape[1]):
        heads = slice(head, head + 1)
        for first in range(0, q.shape[2], QUERIES_PER_BLOCK):
            block = slice(first, min(first + QUERIES_PER_BLOCK, q.shape[2]))
            result[:, heads, block] = F.scaled_dot_product_attention(
                q[:, heads, block], k[:, heads], v[:, heads], attn_mask=bias[:, heads, block]
            )
    return result


def _with_whole_bias(
    attend: Callable[..., Tensor], qkv: Tensor, table: Tensor, window: int
) -> Tensor:
    """A back-end of a function that takes the biases of all pairs."""
    bias = relative_position_bias(table, window).unsqueeze(0)
    return _by_windows(lambda q, k, v: attend(q, k, v, bias), qkv, len(table), window)


def _flex_attention(qkv: Tensor, table: Tensor, window: int) -> Tensor:
    """PyTorch's flex_attention, compiled; the biases are read from their table."""
    table = table.to(qkv.dtype)
    return _by_windows(
        lambda q, k, v: _compiled_flex()(q, k, v, table, window), qkv, len(table), window
    )


def _flex_runs(device_type: str) -> bool:
    # PyTorch has no backward of it for CPUs.
    return device_type == "cuda" or (device_type == "cpu" and not torch.is_grad_enabled())


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    def attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor, window: int) -> Tensor:
        # The closure is made in the compiled function, over its argument: a closure over
        # the parameter itself would go on reading the old one after a copy or a load.
        def add_bias(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            dy = key // window - query // window + window - 1
            dx = key % window - query % window + window - 1
            return score + table[h, dy * (2 * window - 1) + dx]

        return flex_attention(q, k, v, score_mod=add_bias)

    return torch.compile(attend)


# ---- windows and biases ----------------------------------------------------------------------


def _by_windows(attend: Callable[..., Tensor], qkv: Tensor, heads: int, window: int) -> Tensor:
    """Attention of a map by a function of the q, k and v of all windows."""
    height, width = qkv.shape[2:]
    qkv = pad_to_windows(qkv, (window, window))
    tokens = attend(*window_partition(qkv, window, heads))
    return crop(window_merge(tokens, window, (qkv.shape[2], qkv.shape[3])), height, width)


def window_partition(qkv: Tensor, window: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of every window.

    Args:
        qkv: (B, 3*h*d, H, W), channels in the order (qkv, head, channel); H and W are multiples
            of ``window``.
        window: w in pixels.
        heads: h.

    Returns:
        q, k, v: each (B * windows, h, n, d).
    """
    q, k, v = rearrange(
        qkv,
        "b (t h d) (ny wy) (nx wx) -> t (b ny nx) h (wy wx) d",
        wy=window,
        wx=window,
        t=3,
        h=heads,
    ).unbind(0)
    return q, k, v


def window_merge(x: Tensor, window: int, map_size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`window_partition` for one tensor.

    Args:
        x: (B * windows, h, n, d).
        window: w in pixels.
        map_size: H and W of the map that was cut.

    Returns:
        (B, h*d, H, W), channels_last.
    """
    return rearrange(
        x,
        "(b ny nx) h (wy wx) d -> b (ny wy) (nx wx) (h d)",
        ny=map_size[0] // window,
        nx=map_size[1] // window,
        wy=window,
        wx=window,
    ).permute(0, 3, 1, 2)


def relative_position_bias(table: Tensor, window: int) -> Tensor:
    """Bias of every query-key pair of a window.

    The offset is key minus query: ``table[h, (ky-qy+w-1) * (2w-1) + (kx-qx+w-1)]``.
    With the queries in reverse order each query's biases are one w x w patch of the
    table, so the patches are views of it and no index is needed: an index of a 32 x 32
    window would take 8 MB.

    Args:
        table: (h, (2*w - 1)**2).
        window: w in pixels.

    Returns:
        (h, n, n), queries first, then keys.
    """
    side = 2 * window - 1
    # (h, qy, 2w-1, ky), then (h, qy, qx, ky, kx); qx is turned around by the copy that
    # the result needs in any case.
    rows = table.view(-1, side, side).unfold(1, window, 1).flip(1)
    patches = rows.unfold(2, window, 1)
    reverse = torch.arange(window - 1, -1, -1, device=table.device)
    return patches.index_select(2, reverse).reshape(-1, window * window, window * window)
