"""Windows of a feature map as sequences of tokens, and the way back.

Shapes: B images, H x W pixels, C channels, wy x wx pixels of a window, n = wy * wx.
"""

from einops import rearrange
from torch import Tensor

__all__ = ["from_tokens", "to_tokens"]


def to_tokens(x: Tensor, window: tuple[int, int], block: tuple[int, int] = (1, 1)) -> Tensor:
    """The pixels of every window in a row.

    Args:
        x: (B, C, H, W), H and W multiples of the window's sides.
        window: wy and wx.
        block: sides of blocks, which divide the window's: the pixels of a block stand
            together, blocks and pixels in reading order.

    Returns:
        (B * windows, n, C).
    """
    return rearrange(
        x,
        "b c (ny my py) (nx mx px) -> (b ny nx) (my mx py px) c",
        my=window[0] // block[0],
        mx=window[1] // block[1],
        py=block[0],
        px=block[1],
    )


def from_tokens(
    tokens: Tensor,
    window: tuple[int, int],
    map_size: tuple[int, int],
    block: tuple[int, int] = (1, 1),
) -> Tensor:
    """The inverse of :func:`to_tokens`.

    Args:
        tokens: (B * windows, n, C).
        window: wy and wx.
        map_size: H and W of the map that was cut.
        block: as given to :func:`to_tokens`.

    Returns:
        (B, C, H, W), channels_last.
    """
    x = rearrange(
        tokens,
        "(b ny nx) (my mx py px) c -> b (ny my py) (nx mx px) c",
        ny=map_size[0] // window[0],
        nx=map_size[1] // window[1],
        my=window[0] // block[0],
        mx=window[1] // block[1],
        py=block[0],
        px=block[1],
    )
    return x.permute(0, 3, 1, 2)
