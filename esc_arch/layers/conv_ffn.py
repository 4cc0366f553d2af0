"""The convolutional feed-forward network."""

import torch
from torch import Tensor, nn

from esc_arch import native
from esc_arch.layers.norm import ChannelLayerNorm
from esc_arch.ops.activation import gelu
from esc_arch.ops.bands import by_bands, map_for_kernel
from esc_arch.ops.margins import NO_MARGINS, Margins


class ConvFFN(nn.Module):
    """Widen, mix each pixel with its neighbours, narrow.

    Args:
        dim: number of channels in and out.
        exp_ratio: the hidden width is ``int(dim * exp_ratio)``.
        kernel_size: side of the depth-wise kernel, odd.

    Shape: (B, dim, H, W) -> (B, dim, H, W).

    Raises:
        ValueError: when the hidden width is zero.

    Source: ESC, arXiv 2503.06671.
    """

    def __init__(self, dim: int, exp_ratio: float, kernel_size: int = 3) -> None:
        super().__init__()
        hidden = int(dim * exp_ratio)
        if hidden < 1:
            raise ValueError(f"exp_ratio {exp_ratio} leaves no hidden channel of dim {dim}")
        self.proj = nn.Conv2d(dim, hidden, 1)
        self.dwc = nn.Conv2d(hidden, hidden, kernel_size, padding=kernel_size // 2, groups=hidden)
        self.aggr = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = gelu(self.proj(x))
        mixed = gelu(self.dwc(x))
        # In place, autograd would copy the map three times: it is a view.
        mixed = mixed + x if torch.is_grad_enabled() else mixed.add_(x)
        return self.aggr(mixed)


def feed_forward(
    ffn: ConvFFN,
    norm: ChannelLayerNorm | nn.Identity,
    x: Tensor,
    reuse: Tensor | None = None,
    margins: Margins = NO_MARGINS,
) -> Tensor:
    """``ffn(norm(x))``, by one kernel or in bands where that is faster.

    Args:
        x: (B, C, H', W').
        reuse: a map that nobody needs any more, and not x: its memory takes the result if it
            fits.
        margins: rows and columns of x around the part that the result is wanted for.

    Returns:
        (B, C', H, W), without the margins.
    """
    radius = ffn.dwc.kernel_size[0] // 2
    if radius != 1 or not native.usable(x):
        return by_bands(lambda x: ffn(norm(x)), x, halo=radius, reuse=reuse, margins=margins)
    size = margins.inner(x).shape[2:]
    y = map_for_kernel((len(x), len(ffn.aggr.weight), *size), x.dtype, reuse)
    of_norm, eps = (
        ([], 0.0) if isinstance(norm, nn.Identity) else ([norm.weight, norm.bias], norm.eps)
    )
    layers = ([layer.weight, layer.bias] for layer in (ffn.proj, ffn.dwc, ffn.aggr))
    native.conv_ffn(x.permute(0, 2, 3, 1), of_norm, eps, *layers, y.permute(0, 2, 3, 1), margins)
    return y
