"""OmniSR: Omni Aggregation Networks, as spandrel implements it.

Paper: CVPR 2023, arXiv 2304.10244.  The public names of arguments and parameters are kept,
so public option files and checkpoints work.

Shapes: B images, H x W pixels, r = upscaling factor.
"""

from torch import Tensor

from esc_arch.archs.public_network import extend_small, public_class
from esc_arch.plugin.registration import register_arch

__all__ = ["OmniSR"]

# A 3x3 convolution of stride 2 and a 7x7 pooling after it leave nothing of less.
_LEAST_SIDE = 15


@register_arch
class OmniSR(public_class("spandrel.architectures.OmniSR", "OmniSR")):  # type: ignore[misc]
    """The OmniSR network.

    Args:
        num_in_ch, num_out_ch: channels of the image.
        num_feat: number of channels, a multiple of 4.
        upsampling: r.
        res_num: groups.
        block_num: blocks of a group.
        bias: of the convolutions between the blocks.
        block_script_name, block_class_name: ``OSA`` and ``OSA_Block``, the block of the paper.
        window_size: side of the windows in pixels.
        pe: whether the window attention has a bias by relative position.
        ffn_bias: taken as public files name it; the public feed-forward network has no bias
            in either case.

    Shape: (B, num_in_ch, H, W), in [0, 1], any H and W from 1 -> (B, num_out_ch, rH, rW).
    The network extends the image to whole windows by zeros; one of less than 15 pixels is
    extended by reflection first.

    Raises:
        UserError: when spandrel is not installed.
        ValueError: for another block.
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        upsampling: int = 4,
        res_num: int = 1,
        block_num: int = 1,
        bias: bool = True,
        block_script_name: str = "OSA",
        block_class_name: str = "OSA_Block",
        window_size: int = 8,
        pe: bool = True,
        ffn_bias: bool = True,
    ) -> None:
        if (block_script_name, block_class_name) != ("OSA", "OSA_Block"):
            raise ValueError(
                f"block {block_script_name}.{block_class_name} is unknown; known is OSA.OSA_Block"
            )
        super().__init__(
            num_in_ch=num_in_ch,
            num_out_ch=num_out_ch,
            num_feat=num_feat,
            up_scale=upsampling,
            res_num=res_num,
            block_num=block_num,
            bias=bias,
            window_size=window_size,
            pe=pe,
        )

    def forward(self, x: Tensor) -> Tensor:
        return extend_small(super().forward, x, _LEAST_SIDE, self.up_scale)
