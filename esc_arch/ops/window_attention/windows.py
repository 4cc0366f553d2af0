"""Cutting a feature map into windows and putting it together again.

Shapes: B images, H x W pixels, n = window * window tokens, h heads of d channels.
"""

from collections.abc import Callable

from einops import rearrange
from torch import Tensor

from esc_arch.ops.padding import crop_bottom_right, reflect_pad_bottom_right


def window_partition(qkv: Tensor, window: int, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of every window.

    Args:
        qkv: (B, H, W, 3*h*d), channels in the order (qkv, head, channel); H and W are
            multiples of ``window``.
        window: side of a window in pixels.
        num_heads: h.

    Returns:
        q, k, v: each (B * windows, h, n, d).
    """
    return rearrange(
        qkv,
        "b (ny wy) (nx wx) (t h d) -> t (b ny nx) h (wy wx) d",
        wy=window,
        wx=window,
        t=3,
        h=num_heads,
    ).unbind(0)


def window_merge(x: Tensor, window: int, map_size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`window_partition` for one tensor.

    Args:
        x: (B * windows, h, n, d).
        window: side of a window in pixels.
        map_size: H and W of the map that was cut.

    Returns:
        (B, H, W, h*d).
    """
    return rearrange(
        x,
        "(b ny nx) h (wy wx) d -> b (ny wy) (nx wx) (h d)",
        ny=map_size[0] // window,
        nx=map_size[1] // window,
        wy=window,
        wx=window,
    )


def by_windows(
    attend_tokens: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor],
    qkv: Tensor,
    bias: Tensor,
    window: int,
    num_heads: int,
) -> Tensor:
    """Attention of a whole map by a function of the tokens of windows.

    Args:
        attend_tokens: as :func:`esc_arch.ops.window_attention.naive.attend_tokens`.
        qkv, bias, window, num_heads: as :func:`esc_arch.ops.window_attention.naive.attend`.

    Returns:
        (B, H, W, h*d).
    """
    height, width = qkv.shape[1:3]
    # Written by the number of windows, the new sizes stay plain under torch.export.
    rows, columns = (height + window - 1) // window, (width + window - 1) // window
    qkv = reflect_pad_bottom_right(qkv, rows * window - height, columns * window - width)
    tokens = attend_tokens(*window_partition(qkv, window, num_heads), bias, window)
    return crop_bottom_right(window_merge(tokens, window, qkv.shape[1:3]), height, width)
