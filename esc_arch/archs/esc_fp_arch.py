"""ESC-FP: ESC with fewer parameters, its large kernel factorized into channels and space.

Paper: ICCV 2025, arXiv 2503.06671.  Public code: github.com/dslisleedh/ESC (its names of
arguments and parameters are kept, so its option files and checkpoints work).

Shapes: B images, H x W pixels, r = upscaling factor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch.layers.activation_checkpointing import run_block
from esc_arch.layers.conv_attention import FactorizedConvAttention
from esc_arch.layers.esc_block import ESCBlock
from esc_arch.layers.esc_body import check_scale, check_sizes
from esc_arch.layers.norm import ChannelLayerNorm
from esc_arch.layers.scale_transfer import transfer_scale
from esc_arch.ops.memory_format import like_input
from esc_arch.registration import register_arch

__all__ = ["ESCFP"]


@register_arch
class ESCFP(nn.Module):
    """The ESC-FP network.

    Args:
        dim: number of channels, a multiple of ``num_heads``.
        pdim: channels that the convolutional attentions convolve, 4 to ``dim``.
        kernel_size: side of the spatial kernel that they share, odd, at least 3.
        n_blocks: number of blocks.
        conv_blocks: convolutional attentions in a block.
        window_size: side of the self-attention's windows in pixels.
        num_heads: heads of the self-attention.
        upscaling_factor: r.
        exp_ratio: expansion of the ConvFFN before each convolutional attention.
        attn_type: ``auto``, ``naive``, ``sdpa`` or ``flex``, in any case.

    Shape: (B, 3, H, W), RGB in [0, 1], any H and W from 1 -> (B, 3, rH, rW), in the
    input's memory format.

    Raises:
        ValueError: when the arguments do not fit each other.
    """

    def __init__(
        self,
        dim: int,
        pdim: int,
        kernel_size: int,
        n_blocks: int,
        conv_blocks: int,
        window_size: int,
        num_heads: int,
        upscaling_factor: int,
        exp_ratio: float = 2,
        attn_type: str = "auto",
    ) -> None:
        super().__init__()
        check_scale(upscaling_factor)
        check_sizes(dim, pdim, kernel_size, n_blocks, conv_blocks)
        if pdim < 4:
            raise ValueError(f"pdim {pdim} is less than 4")
        self.upscaling_factor = upscaling_factor
        self.lk_channel = nn.Parameter(torch.randn(pdim, pdim, 1, 1))
        self.lk_spatial = nn.Parameter(torch.empty(pdim, 1, kernel_size, kernel_size))
        nn.init.orthogonal_(self.lk_spatial)
        self.proj = nn.Conv2d(3, dim, 3, padding=1)
        self.blocks = nn.ModuleList(
            ESCBlock(
                dim,
                pdim,
                conv_blocks,
                window_size,
                num_heads,
                exp_ratio,
                attn_type,
                True,
                FactorizedConvAttention,
                first_exp_ratio=1.5,
            )
            for _ in range(n_blocks)
        )
        self.ln_last = ChannelLayerNorm(dim)
        self.last = nn.Conv2d(dim, dim, 3, padding=1)
        self.to_img = nn.Conv2d(dim, 3 * upscaling_factor**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.shallow(x)
        feat = shallow
        for block in self.blocks:
            feat = run_block(block, feat, self.large_kernel())
        return like_input(self.upsample(self.deep(feat, shallow), x), x)

    def large_kernel(self) -> tuple[Tensor, Tensor]:
        """What all blocks convolve with: the kernels of channels and of space."""
        return self.lk_channel, self.lk_spatial

    def shallow(self, x: Tensor) -> Tensor:
        """What the first block takes, of an image or a part of it."""
        return self.proj(x.contiguous(memory_format=torch.channels_last))

    def deep(self, feat: Tensor, shallow: Tensor) -> Tensor:
        """The features of the image from those of the last block and the shallow ones."""
        return self.last(self.ln_last(feat)) + shallow

    def upsample(self, feat: Tensor, x: Tensor) -> Tensor:
        """The result from the features of an image or of a part of it, and the image."""
        r = self.upscaling_factor
        skip = F.interpolate(x, scale_factor=r, mode="bicubic")
        return F.pixel_shuffle(self.to_img(feat), r) + skip

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        transfer_scale(state_dict, prefix + "to_img.", self.upscaling_factor)
        super()._load_from_state_dict(state_dict, prefix, *args)
