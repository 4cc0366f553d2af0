"""The frame of SwinIR, in which other networks put groups of their own.

Shapes: B images, H x W pixels, C channels, r = upscaling factor.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from esc_arch.layers.argument_checks import check_least, check_positive
from esc_arch.layers.channels_last import ChannelLayerNorm
from esc_arch.layers.rgb_mean import RGB_MEAN

__all__ = ["RestorationFrame", "check_frame"]


class RestorationFrame(nn.Module):
    """A convolution, groups, the residual around them all, and the upsampler.

    Networks call :meth:`restore` in their forward pass.

    Args:
        groups: of ``embed_dim`` channels, (B, C, H, W) -> (B, C, H, W).  Each is made when
            its turn comes: the order decides the initial values.
        in_chans: channels of the images, in and out.
        embed_dim: C.
        patch_norm: normalise the shallow features.
        upscale: r.
        img_range: the values that the network computes with; images are in [0, 1].

    Source: SwinIR, arXiv 2108.10257, with its lightweight upsampler.
    """

    def __init__(
        self,
        groups: Iterable[nn.Module],
        in_chans: int,
        embed_dim: int,
        patch_norm: bool,
        upscale: int,
        img_range: float,
    ) -> None:
        super().__init__()
        self.upscale = upscale
        self.img_range = img_range
        # Taken off an RGB image before the first convolution.
        mean = RGB_MEAN if in_chans == 3 else (0.0,)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        norm = {"norm": ChannelLayerNorm(embed_dim, eps=1e-5)} if patch_norm else {}
        self.patch_embed = nn.Sequential(OrderedDict(norm))
        self.layers = nn.ModuleList(groups)
        self.norm = ChannelLayerNorm(embed_dim, eps=1e-5)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.upsample = nn.Sequential(
            nn.Conv2d(embed_dim, in_chans * upscale**2, 3, padding=1), nn.PixelShuffle(upscale)
        )
        self.apply(_initialise)

    def restore(self, image: Tensor) -> Tensor:
        """The enlarged image, (B, in_chans, H, W) in [0, 1] -> (B, in_chans, rH, rW).

        Args:
            image: of sides that the groups take.
        """
        shallow = self.conv_first((image - self.mean.to(image.dtype)) * self.img_range)
        feat = self.patch_embed(shallow)
        for layer in self.layers:
            feat = layer(feat)
        y = self.upsample(self.conv_after_body(self.norm(feat)) + shallow)
        return y / self.img_range + self.mean.to(y.dtype)


def check_frame(
    in_chans: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    upscale: int,
    img_range: float,
) -> None:
    """Check the arguments that every network of this frame has.

    Raises:
        ValueError: when one is out of range or does not fit another.
    """
    if not depths or len(depths) != len(num_heads):
        raise ValueError(
            f"depths {list(depths)} and num_heads {list(num_heads)} are not one number for "
            "each group"
        )
    check_least(
        in_chans=(in_chans, 1),
        depths=(min(depths), 1),
        num_heads=(min(num_heads), 1),
        upscale=(upscale, 1),
    )
    check_positive(img_range=img_range)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
