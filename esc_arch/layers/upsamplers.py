"""From features to an image of a larger size.

:class:`DySample`: "Learning to Upsample by Learning to Sample", ICCV 2023, arXiv 2308.15085;
public code: github.com/tiny-smart/dysample.  :class:`UniUpsample` and :func:`nearest_conv`: the
public code of ESC-Real.  Names and places of parameters are kept, as checkpoints name them.

Shapes: B images, C channels in G groups, H x W pixels, r = scale.
"""

from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch import fast

__all__ = ["UPSAMPLERS", "DySample", "UniUpsample", "nearest_conv"]

UPSAMPLERS = ("conv", "pixelshuffledirect", "pixelshuffle", "nearest+conv", "dysample")
GROUPS = 4  # of DySample


@fast.known(reach=None)
class DySample(nn.Module):
    """Bilinear sampling at learned offsets around the centres of the finer pixels.

    Args:
        dim: C, a multiple of ``groups``.
        out_dim: channels of the result, made by a last 1x1 convolution.
        scale: r.
        groups: G, each of which is sampled at places of its own.

    Shape: (B, C, H, W) -> (B, out_dim, rH, rW).

    Raises:
        ValueError: when the channels cannot be split into groups.
    """

    def __init__(self, dim: int, out_dim: int, scale: int, groups: int = 4) -> None:
        super().__init__()
        if dim < groups or dim % groups:
            raise ValueError(f"dim {dim} is not a multiple of the {groups} groups of DySample")
        self.scale = scale
        self.groups = groups
        self.end_conv = nn.Conv2d(dim, out_dim, 1)
        self.offset = nn.Conv2d(dim, 2 * groups * scale**2, 1)
        self.scope = nn.Conv2d(dim, 2 * groups * scale**2, 1, bias=False)
        nn.init.trunc_normal_(self.offset.weight, std=0.02)
        nn.init.zeros_(self.scope.weight)
        self.register_buffer("init_pos", _centres(scale, groups))

    def forward(self, x: Tensor) -> Tensor:
        # Between, the finer map has all channels, and places for each group.
        rows, height = fast.rows_of_bands(self, x, self.scale), x.shape[2]
        if rows is None:
            return self.band(x, 0, height)
        bands = [self.band(x, top, min(top + rows, height)) for top in range(0, height, rows)]
        return torch.cat(bands, dim=2)

    def band(self, x: Tensor, top: int, bottom: int) -> Tensor:
        """The result of some rows of the map, which sample all of it.

        Shape: (B, C, H, W) -> (B, out_dim, r * (bottom - top), rW).
        """
        batch, channels, height, width = x.shape
        offset = self.offsets(x[:, :, top:bottom])
        # Places in half precision would be off by whole pixels in a large image.
        wide = torch.promote_types(x.dtype, torch.float32)
        offset = offset.to(wide).reshape(batch, 2, -1, bottom - top, width)
        column = torch.arange(width, device=x.device, dtype=wide) + 0.5
        row = torch.arange(top, bottom, device=x.device, dtype=wide)[:, None] + 0.5
        # From pixels to the range from -1 to 1 that grid_sample takes.
        grid_x = 2 * (offset[:, 0] + column) / width - 1
        grid_y = 2 * (offset[:, 1] + row) / height - 1
        grid = torch.stack([F.pixel_shuffle(g, self.scale) for g in (grid_x, grid_y)], dim=-1)
        # grid: (B, G, r * rows, rW, 2)
        sampled = F.grid_sample(
            x.to(wide).reshape(batch * self.groups, -1, height, width),
            grid.flatten(0, 1),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        sampled = sampled.reshape(batch, channels, *grid.shape[2:4])
        return self.end_conv(sampled.to(x.dtype))

    def offsets(self, x: Tensor) -> Tensor:
        """From each coarse pixel's centre, in coarse pixels, (B, 2*G*r*r, H, W).

        x of all groups and sub-pixels first, then y.
        """
        return self.offset(x) * self.scope(x).sigmoid() * 0.5 + self.init_pos


def _centres(scale: int, groups: int) -> Tensor:
    """Offsets of the finer pixels' centres in a coarse one, (1, 2*G*r*r, 1, 1), x first."""
    centre = (torch.arange(scale) - (scale - 1) / 2) / scale
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack([x, y]).reshape(2, 1, -1).repeat(1, groups, 1).reshape(1, -1, 1, 1)


@fast.known
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
        # Version of the layout, then what was built; checkpoints carry it.
        meta = [2, UPSAMPLERS.index(upsampler), scale, dim, 3, mid_dim, GROUPS]
        self.MetaUpsample: Tensor
        self.register_buffer("MetaUpsample", torch.tensor(meta, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        return fast.in_bands(list(self), x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # It says how a network was built, and this one is built already.  Weights that do
        # not fit are refused by their own keys.
        state_dict[prefix + "MetaUpsample"] = self.MetaUpsample
        super()._load_from_state_dict(state_dict, prefix, *args)


def nearest_conv(dim: int) -> nn.Sequential:
    """The upsampler of ESC-Real, x4: twice enlarge by repetition and convolve; then to RGB.

    Shape: (B, dim, H, W) -> (B, 3, 4*H, 4*W).
    """
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Upsample(scale_factor=2), _conv(dim, dim), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, _conv(dim, dim), nn.LeakyReLU(0.2), _conv(dim, 3))


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
