"""ATD: Adaptive Token Dictionary, as spandrel implements it.

Paper: CVPR 2024, arXiv 2401.08209.  The public names of arguments and parameters are kept,
so public option files and checkpoints work.

Shapes: B images, H x W pixels, r = upscaling factor.
"""

from collections.abc import Sequence

from torch import Tensor

from esc_arch.archs.public_network import extend_small, public_class
from esc_arch.plugin.registration import register_arch

__all__ = ["ATD"]


@register_arch
class ATD(public_class("spandrel.architectures.ATD", "ATD")):  # type: ignore[misc]
    """The ATD network (also ATD-light, by its arguments).

    Args:
        upscale: r.
        img_size, patch_size: of the training images, without influence on the output.
        in_chans: channels of the image.
        embed_dim: number of channels, a multiple of each of ``num_heads``.
        depths, num_heads: layers, and heads of the attention, of each group.
        window_size: side of the window attention's windows in pixels.
        category_size: pixels of a group in the attention by category.
        num_tokens: length of the token dictionary.
        reducted_dim: channels of queries and keys to the dictionary.
        convffn_kernel_size: side of the ConvFFN's depth-wise kernel, odd.
        mlp_ratio: expansion of the ConvFFN.
        qkv_bias, ape, patch_norm, norm: as in the public code.
        img_range: by which the image, in [0, 1], is multiplied inside.
        upsampler: ``pixelshuffle``, ``pixelshuffledirect``, ``nearest+conv`` or empty.
        resi_connection: ``1conv`` or ``3conv``.

    Shape: (B, in_chans, H, W), in [0, 1], any H and W from 1 -> (B, in_chans, rH, rW).
    The network extends the image to whole windows by flipping it; one of less than half a
    window is extended by reflection first.

    Raises:
        UserError: when spandrel is not installed.
    """

    def __init__(
        self,
        upscale: int = 1,
        img_size: int = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 90,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: int = 8,
        category_size: int = 256,
        num_tokens: int = 64,
        reducted_dim: int = 4,
        convffn_kernel_size: int = 5,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        ape: bool = False,
        patch_norm: bool = True,
        img_range: float = 1.0,
        upsampler: str = "",
        resi_connection: str = "1conv",
        norm: bool = True,
    ) -> None:
        super().__init__(
            upscale=upscale,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            category_size=category_size,
            num_tokens=num_tokens,
            reducted_dim=reducted_dim,
            convffn_kernel_size=convffn_kernel_size,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            ape=ape,
            patch_norm=patch_norm,
            img_range=img_range,
            upsampler=upsampler,
            resi_connection=resi_connection,
            norm=norm,
        )

    def forward(self, x: Tensor) -> Tensor:
        return extend_small(super().forward, x, (self.window_size + 1) // 2, self.upscale)
