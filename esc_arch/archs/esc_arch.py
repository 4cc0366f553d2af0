"""ESC: Emulating Self-attention with Convolution for Efficient Image Super-Resolution.

Paper: ICCV 2025, arXiv 2503.06671.  Public code: github.com/dslisleedh/ESC (its names of
arguments and parameters are kept, so its option files and checkpoints work).

Shapes: B images, C = dim channels, H x W pixels, r = upscaling factor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch.layers.esc_block import ESCBlock
from esc_arch.layers.scale_transfer import transfer_scale
from esc_arch.ops.geometric import geometric_mean_kernel
from esc_arch.ops.memory_format import like_input
from esc_arch.registration import register_arch

__all__ = ["ESC"]


@register_arch
class ESC(nn.Module):
    """The ESC network (also ESC-light and ESC-XL, by its arguments).

    Args:
        dim: number of channels, a multiple of ``num_heads``.
        pdim: channels that the convolutional attentions convolve, at most ``dim``.
        kernel_size: side of the large kernel that they share, odd, at least 3.
        n_blocks: number of blocks.
        conv_blocks: convolutional attentions in a block.
        window_size: side of the self-attention's windows in pixels.
        num_heads: heads of the self-attention.
        upscaling_factor: r.
        exp_ratio: expansion of the ConvFFN before each convolutional attention.
        attn_type: ``auto``, ``naive``, ``sdpa`` or ``flex``, in any case.
        use_ln: normalise before each convolutional attention, too.

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
        use_ln: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("n_blocks", n_blocks),
            ("conv_blocks", conv_blocks),
            ("upscaling_factor", upscaling_factor),
        ):
            if value < 1:
                raise ValueError(f"{name} {value} is less than 1")
        if not 2 <= pdim <= dim:
            raise ValueError(f"pdim {pdim} is not between 2 and dim {dim}")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} is not an odd number from 3")
        self.upscaling_factor = upscaling_factor
        self.plk_filter = nn.Parameter(torch.empty(pdim, pdim, kernel_size, kernel_size))
        nn.init.orthogonal_(self.plk_filter)
        self.proj = nn.Conv2d(3, dim, 3, padding=1)
        self.blocks = nn.ModuleList(
            ESCBlock(dim, pdim, conv_blocks, window_size, num_heads, exp_ratio, attn_type, use_ln)
            for _ in range(n_blocks)
        )
        self.last = nn.Conv2d(dim, dim, 3, padding=1)
        self.to_img = nn.Conv2d(dim, 3 * upscaling_factor**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        feat = self.features(x)
        skip = x.repeat_interleave(self.upscaling_factor**2, dim=1)
        return like_input(F.pixel_shuffle(self.to_img(feat) + skip, self.upscaling_factor), x)

    def features(self, x: Tensor) -> Tensor:
        """The features that the upsampler gets, (B, 3, H, W) -> (B, C, H, W)."""
        # Stored as the maps are, the kernel need not be rearranged by every convolution.
        large_kernel = geometric_mean_kernel(self.plk_filter).contiguous(
            memory_format=torch.channels_last
        )
        shallow = self.proj(x.contiguous(memory_format=torch.channels_last))
        feat = shallow
        for block in self.blocks:
            feat = block(feat, large_kernel)
        return self.last(feat) + shallow

    @torch.no_grad()
    def convert(self) -> None:
        """Store the large kernel folded over the symmetries of the square.

        The output stays the same, as the fold is its own repetition; the checkpoint then
        holds the kernel that is convolved with.
        """
        self.plk_filter.copy_(geometric_mean_kernel(self.plk_filter))

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        transfer_scale(state_dict, prefix + "to_img.", self.upscaling_factor)
        super()._load_from_state_dict(state_dict, prefix, *args)
