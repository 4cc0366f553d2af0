"""DySample: upsampling by sampling the map where a small network says.

Paper: "Learning to Upsample by Learning to Sample", ICCV 2023, arXiv 2308.15085.  Public
code: github.com/tiny-smart/dysample (its names of parameters are kept).

Shapes: B images, C channels in G groups, H x W pixels, r = scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch.ops.bands import PIXELS_PER_BAND, runs_in_bands


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
        height = x.shape[2]
        if not runs_in_bands(x):
            return self.band(x, 0, height)
        # Between, the finer map has all channels, and places for each group.
        rows = max(PIXELS_PER_BAND // (x.shape[3] * self.scale**2), 1)
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
