"""Layers and functions for channels_last feature maps, which the networks compute with.

Shapes: B images, C channels, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch import fast

__all__ = ["ChannelLayerNorm", "GlobalMean", "gelu", "like_input"]


@fast.known
class ChannelLayerNorm(nn.Module):
    """Normalises each pixel over its channels, with a learned scale and shift.

    On a channels_last map the channels of a pixel lie side by side, so PyTorch's
    layer_norm runs on a view and nothing is copied.

    Args:
        dim: number of channels.
        eps: added to the variance.

    Shape: (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@fast.known(reach=None)
class GlobalMean(nn.AdaptiveAvgPool2d):
    """The mean of each channel over the whole map, added up in float32 at least.

    In float16 the sum of a channel overflows from about 400,000 pixels on some runtimes.

    Shape: (B, C, H, W) -> (B, C, 1, 1), dtype of the input.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        # The exporter to ONNX does not pass on the dtype that mean() takes.
        return x.to(wide).mean((2, 3), keepdim=True).to(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """The exact GELU, ``x * Phi(x)``, by the error function.

    PyTorch has a fast kernel for CPUs that it takes for contiguous tensors only; on two
    cores it needs a fifth of the other one's time.  A channels_last map, seen with its
    channels last, is contiguous.

    Args:
        x: (B, C, H, W), channels_last for speed.

    Returns:
        (B, C, H, W), in the memory format of ``x``.
    """
    return F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def like_input(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the memory format of ``x``, as PyTorch's own layers return it.

    Args:
        y, x: (B, C, H, W), sizes may differ.

    Returns:
        ``y``, channels_last when ``x`` is, contiguous otherwise.
    """
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
