"""Cutting a feature map into windows and putting it together again.

Shapes: B images, H x W pixels, n = window * window tokens, h heads of d channels.
"""

from einops import rearrange
from torch import Tensor


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


def window_merge(x: Tensor, window: int, rows: int, map_size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`window_partition` for one tensor.

    Args:
        x: (B * windows, h, rows * window, d): the first rows of every window.
        window: side of a window in pixels.
        rows: between 1 and ``window``.
        map_size: H and W of the map that was cut.

    Returns:
        (B, H / window * rows, W, h*d).
    """
    return rearrange(
        x,
        "(b ny nx) h (wy wx) d -> b (ny wy) (nx wx) (h d)",
        ny=map_size[0] // window,
        nx=map_size[1] // window,
        wy=rows,
        wx=window,
    )
