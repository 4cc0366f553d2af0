"""The upsampler of ESC-Real-M: five kinds behind one name.

Public code: UniUpsample in github.com/dslisleedh/ESC; the places of the layers in the
sequence are kept, as checkpoints name them.
"""

from math import log2

import torch
from torch import Tensor, nn

from esc_arch.layers.dysample import DySample
from esc_arch.ops.bands import by_bands

UPSAMPLERS = ("conv", "pixelshuffledirect", "pixelshuffle", "nearest+conv", "dysample")
GROUPS = 4  # of DySample

# Rows of the map that a row of the result needs above and below, at most: each 3x3
# convolution needs one row at its own resolution.
HALO = 3


class UniUpsample(nn.Sequential):
    """From features to an image of ``scale`` times their size.

    Args:
        upsampler: one of :data:`UPSAMPLERS`; at scale 1 all are one convolution.
        scale: 1, 2, 3 or 4.
        dim: channels of the features.
        mid_dim: channels between, of ``pixelshuffle`` and ``dysample``.

    Shape: (B, dim, H, W) -> (B, 3, scale*H, scale*W).

    Raises:
        ValueError: when the upsampler is unknown, or is ``conv`` and the scale is not 1.
    """

    def __init__(self, upsampler: str, scale: int, dim: int, mid_dim: int) -> None:
        if upsampler not in UPSAMPLERS:
            raise ValueError(
                f"upsampler {upsampler!r} is unknown; known are {', '.join(UPSAMPLERS)}"
            )
        if upsampler == "conv" and scale != 1:
            raise ValueError(
                f"upsampler 'conv' does not enlarge, but x{scale} is needed here "
                "(with unshuffle_mod the network works at x4 inside)"
            )
        super().__init__(*_layers(upsampler, scale, dim, mid_dim))
        self.scale = scale
        # Version of the layout, then what was built; checkpoints carry it.
        meta = [2, UPSAMPLERS.index(upsampler), scale, dim, 3, mid_dim, GROUPS]
        self.register_buffer("MetaUpsample", torch.tensor(meta, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self[-1], DySample):  # its places are relative to the whole map
            return super().forward(x)
        return by_bands(super().forward, x, halo=HALO, scale=self.scale)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # It says how a network was built, and this one is built already.  Weights that do
        # not fit are refused by their own keys.
        state_dict[prefix + "MetaUpsample"] = self.MetaUpsample
        super()._load_from_state_dict(state_dict, prefix, *args)


def _layers(upsampler: str, scale: int, dim: int, mid_dim: int) -> list[nn.Module]:
    if scale == 1:
        return [_conv(dim, 3)]
    # x4 in two steps, x2 and x3 in one.
    steps = [2] * int(log2(scale)) if scale in (2, 4) else [scale]
    if upsampler == "pixelshuffledirect":
        return [_conv(dim, 3 * scale**2), nn.PixelShuffle(scale)]
    if upsampler == "pixelshuffle":
        layers = [_conv(dim, mid_dim), nn.LeakyReLU()]
        for step in steps:
            layers += [_conv(mid_dim, mid_dim * step**2), nn.PixelShuffle(step)]
        return [*layers, _conv(mid_dim, 3)]
    if upsampler == "nearest+conv":
        layers = []
        for step in steps:
            layers += [_conv(dim, dim), nn.Upsample(scale_factor=step), nn.LeakyReLU(0.2)]
        return [*layers, _conv(dim, dim), nn.LeakyReLU(0.2), _conv(dim, 3)]
    narrow = [] if mid_dim == dim else [_conv(dim, mid_dim), nn.LeakyReLU()]
    return [*narrow, DySample(mid_dim, 3, scale, GROUPS)]


def _conv(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1)
