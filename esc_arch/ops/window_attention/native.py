"""Window attention on a CPU in float32, by a kernel of this package, with its gradient.

Nothing but the keys and values of one head in one window, and a tile of its scores, is held
for each core: the map is read where it lies, extended by reflection on the way, and the
biases are read from their table.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from esc_arch import native
from esc_arch.ops.padding import reflect_pad_bottom_right

__all__ = ["attend", "prepare_bias"]

# The kernel reads the table by vectors of up to so many queries.
_LANES = 16


def prepare_bias(bias_table: Tensor, window: int) -> Tensor:
    """The table as the kernel reads it.

    Args:
        bias_table: (h, (2*window - 1)**2).
        window: side of the window in pixels.

    Returns:
        (h, 2*window - 1, row), columns in reverse, so that they run with the queries;
        to the base 2; with zeros for queries beyond the window's edge.
    """
    side = 2 * window - 1
    table = bias_table.view(-1, side, side).flip(2) * math.log2(math.e)
    row = window + -(-window // _LANES) * _LANES
    return F.pad(table, (0, row - side)).to(torch.float32).contiguous()


def attend(qkv: Tensor, bias: Tensor, window: int, num_heads: int) -> Tensor:
    """See :func:`esc_arch.ops.window_attention.naive.attend`."""
    if not torch.is_grad_enabled():
        return native.window_attention(qkv, bias, window)[0]
    # The kernel's gradient is for whole windows; PyTorch knows that of the padding.
    height, width = qkv.shape[1:3]
    qkv = reflect_pad_bottom_right(qkv, -height % window, -width % window)
    return native.window_attention(qkv, bias, window)[0][:, :height, :width]
