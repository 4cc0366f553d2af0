"""ESC-FP: ESC with fewer parameters, its large kernel factorized into channels and space.

Paper: ICCV 2025, arXiv 2503.06671.  Public code: github.com/dslisleedh/ESC (its names of
arguments and parameters are kept, so its option files and checkpoints work).

Differences from ESC: the blocks share ``lk_channel`` and ``lk_spatial`` in place of
``plk_filter``, which have no symmetry; the first feed-forward network is narrower; a norm stands
before every layer, ``ln_last`` before ``last``; the image is added by bicubic interpolation.

Shapes: B images, H x W pixels, p = pdim channels, r = upscaling factor.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch import fast
from esc_arch.archs.config import takes_fields_of
from esc_arch.archs.esc_arch import (
    ESCConfig,
    ESCFamily,
    depthwise_by_image,
    dynamic_kernel_branch,
)
from esc_arch.layers.channels_last import ChannelLayerNorm
from esc_arch.layers.scale_transfer import transfer_scale
from esc_arch.plugin.registration import register_arch

__all__ = ["ESCFP", "FactorizedConvAttention"]


@fast.known(reach=None)
class FactorizedConvAttention(nn.Module):
    """Mix the channels, then a depth-wise convolution by a shared and a dynamic kernel.

    Args:
        pdim: p.

    Shape: x (B, p, H, W) and the kernels (p, p, 1, 1) and (p, 1, k, k) -> (B, p, H, W).
    """

    def __init__(self, pdim: int) -> None:
        super().__init__()
        self.pdim = pdim
        self.proj = dynamic_kernel_branch(pdim, pdim // 4)

    def kernel_shapes(self, k: int) -> list[tuple[int, ...]]:
        """The shapes of the two kernels, that of space of side k."""
        return [(self.pdim, self.pdim, 1, 1), (self.pdim, 1, k, k)]

    def dynamic_kernel(self, x: Tensor) -> Tensor:
        """From a map or its mean, (B, p, H, W) or (B, p, 1, 1), to (B, p, 3, 3)."""
        return self.proj(x).reshape(-1, self.pdim, 3, 3)

    def forward(self, x: Tensor, large_kernel: tuple[Tensor, Tensor]) -> Tensor:
        channel_kernel, spatial_kernel = large_kernel
        # The dynamic kernel is added in the middle of the spatial one: one convolution for both.
        margin = spatial_kernel.shape[-1] // 2 - 1
        kernel = spatial_kernel.squeeze(1) + F.pad(self.dynamic_kernel(x), (margin,) * 4)
        return depthwise_by_image(F.conv2d(x, channel_kernel), kernel)


@register_arch
@fast.known
class ESCFP(ESCFamily):
    """The ESC-FP network.

    Args:
        config: the fields of :class:`esc_arch.archs.esc_arch.ESCConfig`, one by one.

    Shape: (B, 3, H, W), RGB in [0, 1], any H and W from 1 -> (B, 3, rH, rW), in the
    input's memory format.

    Raises:
        ValueError: when the arguments do not fit each other.
    """

    @takes_fields_of(ESCConfig)
    def __init__(self, config: ESCConfig) -> None:
        if config.pdim < 4:
            raise ValueError(f"pdim {config.pdim} is less than 4")
        super().__init__(config, True, FactorizedConvAttention, first_exp_ratio=1.5)
        self.to_img = nn.Conv2d(config.dim, 3 * config.upscaling_factor**2, 3, padding=1)
        self.blueprint = fast.Blueprint.of(self)

    def make_large_kernel(self, pdim: int, kernel_size: int) -> None:
        self.lk_channel = nn.Parameter(torch.randn(pdim, pdim, 1, 1))
        self.lk_spatial = nn.Parameter(torch.empty(pdim, 1, kernel_size, kernel_size))
        nn.init.orthogonal_(self.lk_spatial)

    def make_end(self, dim: int) -> None:
        self.ln_last = ChannelLayerNorm(dim)
        super().make_end(dim)

    def large_kernel(self) -> tuple[Tensor, Tensor]:
        return self.lk_channel, self.lk_spatial

    def deep(self, feat: Tensor, shallow: Tensor) -> Tensor:
        return super().deep(self.ln_last(feat), shallow)

    def upsample(self, feat: Tensor, x: Tensor) -> Tensor:
        r = self.upscaling_factor
        skip = F.interpolate(x, scale_factor=r, mode="bicubic")
        return F.pixel_shuffle(self.to_img(feat), r) + skip

    def convert(self) -> None:
        """Nothing to fold: the kernels have no symmetry."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        transfer_scale(state_dict, prefix + "to_img.", self.upscaling_factor)
        super()._load_from_state_dict(state_dict, prefix, *args)
