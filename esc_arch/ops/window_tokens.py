"""Windows of a feature map as sequences of tokens, and the way back.

Shapes: B images, H x W pixels, C channels, wy x wx pixels of a window, n = wy * wx.
"""

from einops import rearrange
from torch import Tensor

from esc_arch.ops.padding import reflect_pad_bottom_right


def pad_to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Extend a map to whole windows by reflection at the bottom and right.

    Args:
        x: (B, H, W, C), H and W from 1.
        window: wy and wx.

    Returns:
        (B, H', W', C), H' and W' multiples of wy and wx; ``x`` itself when it fits.
    """
    (wy, wx), height, width = window, x.shape[1], x.shape[2]
    # Written by the number of windows, the new sizes stay plain under torch.export.
    rows, columns = (height + wy - 1) // wy, (width + wx - 1) // wx
    return reflect_pad_bottom_right(x, rows * wy - height, columns * wx - width)


def to_tokens(x: Tensor, window: tuple[int, int], block: tuple[int, int] = (1, 1)) -> Tensor:
    """The pixels of every window in a row.

    Args:
        x: (B, H, W, C), H and W multiples of the window's sides.
        window: wy and wx.
        block: sides of blocks, which divide the window's: the pixels of a block stand
            together, blocks and pixels in reading order.

    Returns:
        (B * windows, n, C).
    """
    return rearrange(
        x,
        "b (ny my py) (nx mx px) c -> (b ny nx) (my mx py px) c",
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
        (B, H, W, C).
    """
    return rearrange(
        tokens,
        "(b ny nx) (my mx py px) c -> b (ny my py) (nx mx px) c",
        ny=map_size[0] // window[0],
        nx=map_size[1] // window[1],
        my=window[0] // block[0],
        mx=window[1] // block[1],
        py=block[0],
        px=block[1],
    )
