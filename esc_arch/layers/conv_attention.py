"""ConvAttn: convolution in the place of self-attention."""

import torch
from torch import Tensor, nn

from esc_arch import native
from esc_arch.ops.bands import by_bands, replace_first_channels
from esc_arch.ops.conv_attention import conv_attention, factorized_conv_attention
from esc_arch.ops.margins import NO_MARGINS, Margins


def dynamic_kernel_branch(pdim: int, hidden: int) -> nn.Sequential:
    """From a map to the nine taps of each channel's kernel.

    Shape: (B, pdim, H, W) -> (B, 9 * pdim, 1, 1).
    """
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(pdim, hidden, 1),
        nn.GELU(),
        nn.Conv2d(hidden, pdim * 3 * 3, 1),
    )


class ConvolutionalAttention(nn.Module):
    """The shared large kernel and a dynamic kernel, on the first ``pdim`` channels.

    Args:
        pdim: number of channels that are convolved.

    Shape: (B, pdim, H, W) and the large kernel (pdim, pdim, k, k) -> (B, pdim, H, W).

    Source: ESC, arXiv 2503.06671, ConvAttn.
    """

    def __init__(self, pdim: int) -> None:
        super().__init__()
        self.pdim = pdim
        self.dwc_proj = dynamic_kernel_branch(pdim, pdim // 2)
        # The dynamic kernel starts at zero: training begins with the shared kernel alone.
        nn.init.zeros_(self.dwc_proj[-1].weight)
        nn.init.zeros_(self.dwc_proj[-1].bias)

    def forward(self, x: Tensor, large_kernel: Tensor) -> Tensor:
        return self.convolve(x, large_kernel, self.dynamic_kernel(x))

    def dynamic_kernel(self, x: Tensor) -> Tensor:
        """From a map or its mean, (B, pdim, H, W) or (B, pdim, 1, 1), to (B, pdim, 3, 3)."""
        return self.dwc_proj(x).reshape(-1, self.pdim, 3, 3)

    def convolve(
        self,
        x: Tensor,
        large_kernel: Tensor,
        dynamic_kernel: Tensor,
        margins: Margins = NO_MARGINS,
    ) -> Tensor:
        """Both convolutions of a map or of a part with margins.

        Shape: (B, pdim, H', W') -> (B, pdim, H, W), without the margins.
        """
        return conv_attention(x, large_kernel, dynamic_kernel, margins)


class FactorizedConvAttention(nn.Module):
    """ConvAttn with its large kernel factorized into channels and space.

    Args:
        pdim: number of channels that are convolved.

    Shape: (B, pdim, H, W) and the kernels (pdim, pdim, 1, 1) and (pdim, 1, k, k)
    -> (B, pdim, H, W).

    Source: ESC-FP, arXiv 2503.06671.
    """

    def __init__(self, pdim: int) -> None:
        super().__init__()
        self.pdim = pdim
        self.proj = dynamic_kernel_branch(pdim, pdim // 4)

    def forward(self, x: Tensor, large_kernel: tuple[Tensor, Tensor]) -> Tensor:
        return self.convolve(x, large_kernel, self.dynamic_kernel(x))

    def dynamic_kernel(self, x: Tensor) -> Tensor:
        """From a map or its mean, (B, pdim, H, W) or (B, pdim, 1, 1), to (B, pdim, 3, 3)."""
        return self.proj(x).reshape(-1, self.pdim, 3, 3)

    def convolve(
        self,
        x: Tensor,
        large_kernel: tuple[Tensor, Tensor],
        dynamic_kernel: Tensor,
        margins: Margins = NO_MARGINS,
    ) -> Tensor:
        """The convolutions of a map or of a part with margins.

        Shape: (B, pdim, H', W') -> (B, pdim, H, W), without the margins.
        """
        return factorized_conv_attention(x, *large_kernel, dynamic_kernel, margins)


class ConvAttnWrapper(nn.Module):
    """ConvAttn on the first channels, a 1x1 convolution over all, the residual.

    Args:
        dim: number of channels.
        conv_attention: for the first ``conv_attention.pdim`` channels; the others pass by it.

    Shape: x (B, dim, H, W), which may be overwritten; large_kernel as ``conv_attention``
    takes it; residual (B, dim, H, W), which may be overwritten -> (B, dim, H, W).
    """

    def __init__(self, dim: int, conv_attention: nn.Module) -> None:
        super().__init__()
        self.plk = conv_attention
        self.aggr = nn.Conv2d(dim, dim, 1)

    def forward(
        self, x: Tensor, large_kernel: Tensor | tuple[Tensor, Tensor], residual: Tensor
    ) -> Tensor:
        return self.aggregate(self.plk(x[:, : self.plk.pdim], large_kernel), x, residual)

    def aggregate(
        self, convolved: Tensor, x: Tensor, residual: Tensor, keep_x: bool = False
    ) -> Tensor:
        """The residual plus the 1x1 convolution of x with its first channels convolved.

        The residual may be overwritten, and x unless it is to be kept.
        """
        if native.usable(x) and x.shape[1] % native.VECTOR == 0:
            maps = [_for_kernel(map) for map in (convolved, x, residual)]
            native.aggregate(*maps[:2], self.aggr.weight, self.aggr.bias, maps[2])
            return maps[2].permute(0, 3, 1, 2)
        if keep_x:
            x = torch.cat([convolved, x[:, convolved.shape[1] :]], dim=1)
        else:
            x = replace_first_channels(x, convolved)
        return by_bands(self.aggr, x, residual=residual, reuse=residual)


def _for_kernel(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), as the kernel takes it."""
    x = x.permute(0, 2, 3, 1)
    return x if native.takes_result(x) else x.contiguous()
