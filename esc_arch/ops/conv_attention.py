"""The convolutions of ConvAttn: a large shared kernel plus a small one made from the input.

Shapes: B images, p channels, H x W pixels, k the side of the large kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from esc_arch import native
from esc_arch.ops.geometric import is_symmetric
from esc_arch.ops.margins import NO_MARGINS, Margins


def conv_attention(
    x: Tensor, large_kernel: Tensor, dynamic_kernel: Tensor, margins: Margins = NO_MARGINS
) -> Tensor:
    """``conv(x, large_kernel) + depthwise_conv(x, dynamic_kernel)``, both with zero padding.

    Args:
        x: (B, p, H', W').
        large_kernel: (p, p, k, k), k odd and at least 3, the same for every image.
        dynamic_kernel: (B, p, 3, 3), one kernel per image and channel.
        margins: rows and columns of x around the part that the result is wanted for.

    Returns:
        (B, p, H, W), without the margins.

    Source: ESC, arXiv 2503.06671, ConvAttn.
    """
    batch, p, height, width = x.shape
    if native.usable(x) and p % native.VECTOR == 0 and is_symmetric(large_kernel):
        y = native.symmetric_conv(x.permute(0, 2, 3, 1), large_kernel, dynamic_kernel, margins)
        return y.permute(0, 3, 1, 2)
    radius = large_kernel.shape[-1] // 2
    if isinstance(batch, int) and batch == 1:
        # Convolution is linear in its kernel: one pass over x does for both.
        kernel = add_to_diagonal(large_kernel, dynamic_kernel[0])
        return margins.inner(F.conv2d(x, kernel, padding=radius))
    per_image = x.reshape(1, batch * p, height, width)
    dynamic = F.conv2d(
        per_image, dynamic_kernel.reshape(batch * p, 1, 3, 3), padding=1, groups=batch * p
    )
    y = F.conv2d(x, large_kernel, padding=radius) + dynamic.view(batch, p, height, width)
    return margins.inner(y)


def factorized_conv_attention(
    x: Tensor,
    channel_kernel: Tensor,
    spatial_kernel: Tensor,
    dynamic_kernel: Tensor,
    margins: Margins = NO_MARGINS,
) -> Tensor:
    """Mix the channels, then a depth-wise ``conv(x, spatial_kernel + dynamic_kernel)``.

    Args:
        x: (B, p, H', W').
        channel_kernel: (p, p, 1, 1), the same for every image.
        spatial_kernel: (p, 1, k, k), k odd and at least 3, the same for every image.
        dynamic_kernel: (B, p, 3, 3), one kernel per image and channel, added in the
            middle of the spatial one.
        margins: rows and columns of x around the part that the result is wanted for.

    Returns:
        (B, p, H, W), without the margins.

    Source: ESC-FP, arXiv 2503.06671.
    """
    batch, p, height, width = x.shape
    k = spatial_kernel.shape[-1]
    kernel = spatial_kernel.squeeze(1) + F.pad(dynamic_kernel, (k // 2 - 1,) * 4)
    x = F.conv2d(x, channel_kernel).reshape(1, batch * p, height, width)
    x = F.conv2d(x, kernel.reshape(batch * p, 1, k, k), padding=k // 2, groups=batch * p)
    return margins.inner(x.view(batch, p, height, width))


def add_to_diagonal(large_kernel: Tensor, dynamic_kernel: Tensor) -> Tensor:
    """The one kernel that does what the large and the depth-wise kernel do together.

    Args:
        large_kernel: (p, p, k, k), k odd and at least 3.
        dynamic_kernel: (p, 3, 3).

    Returns:
        (p, p, k, k): the depth-wise kernel added in the middle of the diagonal.
    """
    diagonal = torch.diag_embed(dynamic_kernel.permute(1, 2, 0)).permute(2, 3, 0, 1)
    margin = large_kernel.shape[-1] // 2 - 1
    return large_kernel + F.pad(diagonal, (margin,) * 4)
