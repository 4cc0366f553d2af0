"""SRFormer: Permuted Self-Attention, as spandrel_extra_arches implements it.

Paper: ICCV 2023, arXiv 2303.09735.  The public names of arguments and parameters are kept,
so public option files and checkpoints work.

Shapes: B images, H x W pixels, r = upscaling factor.
"""

from collections.abc import Sequence

from torch import Tensor

from esc_arch.archs.public_network import extend_small, public_class
from esc_arch.plugin.registration import register_arch

__all__ = ["SRFormer"]


@register_arch
class SRFormer(public_class("spandrel_extra_arches.architectures.SRFormer", "SRFormer")):  # type: ignore[misc]
    """The SRFormer network (also SRFormer-light, by its arguments).

    Args:
        upscale: r.
        img_size: of the training images; decides the shape of the buffers ``attn_mask`` and
            nothing of the output.
        patch_size: without influence on the output.
        in_chans: channels of the image.
        embed_dim: number of channels, a multiple of 4 and of each of ``num_heads``.
        depths, num_heads: blocks, and heads of the attention, of each group.
        window_size: side of the windows in pixels, even.
        mlp_ratio: expansion of the ConvFFN.
        qkv_bias, qk_scale, drop_rate, attn_drop_rate, ape, patch_norm, use_checkpoint: as in
            the public code.
        drop_path_rate: chance, in training, that the last block is left out; the others'
            rises to it from zero.
        img_range: by which the image, in [0, 1], is multiplied inside.
        upsampler: ``pixelshuffle``, ``pixelshuffledirect``, ``nearest+conv`` or empty.
        resi_connection: ``1conv`` or ``3conv``.

    Shape: (B, in_chans, H, W), in [0, 1], any H and W from 1 -> (B, in_chans, rH, rW).
    The image is extended to whole windows by reflection.

    Raises:
        UserError: when spandrel_extra_arches is not installed.
    """

    def __init__(
        self,
        upscale: int = 1,
        img_size: int = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        img_range: float = 1.0,
        upsampler: str = "",
        resi_connection: str = "1conv",
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
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
            ape=ape,
            patch_norm=patch_norm,
            use_checkpoint=use_checkpoint,
            img_range=img_range,
            upsampler=upsampler,
            resi_connection=resi_connection,
        )

    def forward(self, x: Tensor) -> Tensor:
        return extend_small(super().forward, x, self.window_size, self.upscale)
