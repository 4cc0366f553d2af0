"""ESC: Emulating Self-attention with Convolution for Efficient Image Super-Resolution.

Paper: ICCV 2025, arXiv 2503.06671.  Public code: github.com/dslisleedh/ESC (its names of
arguments and parameters are kept, so its option files and checkpoints work).

Shapes: B images, H x W pixels, r = upscaling factor.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch.layers.esc_body import ESCBody, check_scale
from esc_arch.layers.scale_transfer import transfer_scale
from esc_arch.ops.memory_format import like_input
from esc_arch.registration import register_arch

__all__ = ["ESC"]


@register_arch
class ESC(ESCBody):
    """The ESC network (also ESC-light and ESC-XL, by its arguments).

    Args:
        upscaling_factor: r.
        dim, pdim, kernel_size, n_blocks, conv_blocks, window_size, num_heads, exp_ratio,
            attn_type, use_ln: see :class:`esc_arch.layers.esc_body.ESCBody`.

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
        check_scale(upscaling_factor)
        super().__init__(
            dim,
            pdim,
            kernel_size,
            n_blocks,
            conv_blocks,
            window_size,
            num_heads,
            exp_ratio,
            attn_type,
            use_ln,
        )
        self.upscaling_factor = upscaling_factor
        self.to_img = nn.Conv2d(dim, 3 * upscaling_factor**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return like_input(self.upsample(self.features(x), x), x)

    def upsample(self, feat: Tensor, x: Tensor) -> Tensor:
        """The result from the features of an image or of a part of it, and the image."""
        skip = x.repeat_interleave(self.upscaling_factor**2, dim=1)
        return F.pixel_shuffle(self.to_img(feat) + skip, self.upscaling_factor)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        transfer_scale(state_dict, prefix + "to_img.", self.upscaling_factor)
        super()._load_from_state_dict(state_dict, prefix, *args)
