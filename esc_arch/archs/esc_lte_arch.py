"""ESC+LTE: ESC's features, read at any scale by the local texture estimator.

Papers: ESC, arXiv 2503.06671, and "Local Texture Estimator for Implicit Representation
Function", CVPR 2022, arXiv 2111.08918.  Public code: github.com/dslisleedh/ESC, whose names of
parameters are kept.

Names of parameters:

    encoder              ESC without its upsampler
    coef, freq           3x3 convolutions: amplitudes, and frequencies as pairs (along y, along x)
    phase                from the sides of a pixel of the result to phases
    imnet.layers         the network that makes a colour of a pixel's waves

Shapes: B images, H x W pixels, H' x W' pixels of the result, Q queries, C = dim channels,
D = hidden_dim waves.  Coordinates go from -1 to 1 over the image, y first; the centre of pixel i
of n lies at (2 i + 1) / n - 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_arch import fast
from esc_arch.archs.config import takes_fields_of
from esc_arch.archs.esc_arch import ESCConfig, ESCFamily
from esc_arch.fast.maps import Region
from esc_arch.layers.channels_last import like_input
from esc_arch.plugin.registration import register_arch

__all__ = ["ESCLTE", "ESCEncoder", "ESCLTEConfig"]

# Queries that are answered at a time in inference: their waves stay in the processor's cache.
_QUERIES = 1024
# Map pixels whose waves are held at a time in inference.
_BAND_PIXELS = 1 << 15
# Pixels of the map around those that a region of the result lies in, which it depends on: the other
# neighbour's, and one around that for the convolution that gives its waves.
HALO = 2
# By how much a neighbour is looked for beyond half a pixel, so that a query at a pixel's centre
# has an answer, and how far within the image it stays.
_SHIFT = 1e-6
# Keeps the weights finite where all four neighbours are the same pixel.
_LEAST_AREA = 1e-9


@dataclass(frozen=True)
class ESCLTEConfig(ESCConfig):
    """The arguments of ESC, as published for any scale, and those of the texture estimator.

    Raises:
        ValueError: as :class:`ESCConfig`, or when ``hidden_dim`` is not even.
    """

    dim: int = 64
    pdim: int = 16
    kernel_size: int = 13
    n_blocks: int = 5
    conv_blocks: int = 5
    window_size: int = 32
    num_heads: int = 4
    upscaling_factor: int = 4  # where neither a size nor a scale is asked for
    exp_ratio: float = 1.25
    hidden_dim: int = 256  # D, and the width of imnet

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_dim < 2 or self.hidden_dim % 2:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not an even number from 2")


@fast.known
class ESCEncoder(ESCFamily):
    """ESC up to its features.

    Shape: (B, 3, H, W) -> (B, dim, H, W).
    """

    def __init__(self, config: ESCConfig, use_ln: bool) -> None:
        super().__init__(replace(config, upscaling_factor=1), use_ln)
        self.blueprint = fast.Blueprint.of(self)

    def upsample(self, feat: Tensor, x: Tensor) -> Tensor:
        return feat


class ImplicitNetwork(nn.Module):
    """From the waves of a query to its colour: four linear layers.

    Shape: (..., D) -> (..., 3).
    """

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_dim, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Axis(NamedTuple):
    """Where queries lie along a side of the map.

    Attributes:
        coord: (Q,), of the queries.
        pixel: (2, Q), number of the nearest pixel before a query and of that after it; the same at
            the ends of the map.
        distance: (2, Q), from the centres of these to the query; two pixels are 2 apart.
    """

    coord: Tensor
    pixel: Tensor
    distance: Tensor

    @classmethod
    def of(cls, coord: Tensor, n: int) -> "Axis":
        """Of coordinates (Q,) along a side of n pixels."""
        half = torch.tensor([[-1 / n], [1 / n]], dtype=coord.dtype, device=coord.device)
        near = (coord + half + _SHIFT).clamp(-1 + _SHIFT, 1 - _SHIFT)
        pixel = (((near + 1) * n - 1) / 2).round().long()
        return cls(coord, pixel, (coord - pixel_centres(n, coord)[pixel]) * n)

    def at(self, which: Tensor) -> "Axis":
        """Of some of the queries."""
        return Axis(*(values[..., which] for values in self))


class MapPart(NamedTuple):
    """A part of an image and of its features.

    Attributes:
        size: H and W of the whole.
        region: of it that this is.
        feat: (B, dim, *region).
        x_normal: (B, 3, *region), the normalised image.
    """

    size: tuple[int, int]
    region: Region
    feat: Tensor
    x_normal: Tensor


@register_arch
@fast.known
class ESCLTE(nn.Module):
    """The ESC+LTE network: one for all scales.

    Args:
        config: the fields of :class:`ESCLTEConfig`, one by one.
        use_ln: normalise before each convolutional attention, too.

    Shape: (B, 3, H, W), RGB in [0, 1], any H and W from 1 -> (B, 3, H', W'), not clamped, in the
    input's memory format; or (B, Q, 3) of queries.

    Raises:
        ValueError: when the arguments do not fit each other.
    """

    @takes_fields_of(ESCLTEConfig)
    def __init__(self, config: ESCLTEConfig, use_ln: bool = False) -> None:
        super().__init__()
        self.upscaling_factor = config.upscaling_factor
        self.encoder = ESCEncoder(config, use_ln)
        dim, waves = config.dim, config.hidden_dim
        self.coef = nn.Conv2d(dim, waves, 3, padding=1)
        self.freq = nn.Conv2d(dim, waves, 3, padding=1)
        self.phase = nn.Linear(2, waves // 2, bias=False)
        self.imnet = ImplicitNetwork(waves)

    def forward(
        self,
        x: Tensor,
        size: tuple[int, int] | None = None,
        scale: float | tuple[float, float] | None = None,
        *,
        coord: Tensor | None = None,
        cell: Tensor | None = None,
        max_scale: float | None = None,
    ) -> Tensor:
        """Enlarge images, or answer queries.

        Args:
            x: (B, 3, H, W).
            size: H' and W' of the result.
            scale: instead, of both sides or of each; a result has round(scale * side) pixels.
            coord: instead, (B, Q, 2) coordinates of queries, for training.
            cell: (B, 2) or (B, Q, 2), with ``coord``: sides of the pixels that are asked for, in
                coordinates: 2/H', 2/W'.
            max_scale: larger scales get the pixel sides of this one, as networks are tested
                beyond the scales of their training (4 of the published one).

        Raises:
            ValueError: when the arguments do not fit each other.
        """
        image = x.shape[2], x.shape[3]
        if coord is None:
            size = self.result_size(image, size, scale)
        elif cell is None or size is not None or scale is not None:
            raise ValueError("coord goes with cell, and without size and scale")
        x_normal = (x - 0.5) / 0.5
        feat = self.encoder(x_normal)
        if coord is not None and cell is not None:
            return self.answers(feat, x_normal, coord, cell) * 0.5 + 0.5
        assert size is not None
        part = MapPart(image, Region(0, image[0], 0, image[1]), feat, x_normal)
        return like_input(self.decode(part, Region(0, size[0], 0, size[1]), size, max_scale), x)

    def result_size(
        self,
        image: tuple[int, int],
        size: Sequence[int] | None = None,
        scale: float | Sequence[float] | None = None,
    ) -> tuple[int, int]:
        """Height and width of the result of an image of this height and width.

        Raises:
            ValueError: for a size or scale that is none, or for both.
        """
        if size is not None and scale is not None:
            raise ValueError("size and scale exclude each other")
        if size is None:
            factor = self.upscaling_factor if scale is None else scale
            down, right = factor if isinstance(factor, Sequence) else (factor, factor)
            if not (0 < down < inf and 0 < right < inf):
                raise ValueError(f"scale {scale} is not above 0")
            return max(1, round(down * image[0])), max(1, round(right * image[1]))
        height, width = size
        if height < 1 or width < 1:
            raise ValueError(f"size {height} x {width} has no pixels")
        return height, width

    def answers(self, feat: Tensor, x_normal: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The normalised colours (B, Q, 3) at coordinates (B, Q, 2)."""
        batch, _, height, width = feat.shape
        queries = coord.shape[1]
        cell = cell if cell.dim() == 3 else cell[:, None]
        phase = self.phase((cell * cell.new_tensor([height, width])).to(feat.dtype))
        rows, columns = (
            Axis.of(values.flatten(), n)
            for values, n in zip(coord.to(wide(coord)).unbind(-1), (height, width), strict=True)
        )
        # In the table the maps of the batch lie one below the other.
        image = torch.arange(batch, device=feat.device).repeat_interleave(queries)
        rows = rows._replace(pixel=rows.pixel + image * height)
        phase = phase.expand(batch, queries, -1).flatten(0, 1)
        texture = self.texture(self.waves(feat), width, rows, columns, phase)
        return texture.view(batch, queries, 3) + interpolated(x_normal, coord)

    def decode(
        self,
        part: MapPart,
        region: Region,
        size: tuple[int, int],
        max_scale: float | None = None,
    ) -> Tensor:
        """A region of the result, (B, 3, *region).

        In inference the queries go in bands of the map's rows, and some at a time in these, so that
        the memory on top of the result does not grow with it.

        Args:
            part: of the map, that reaches :data:`HALO` pixels further than the region.
            region: of the result.
            size: H' and W' of the whole result.
            max_scale: as :meth:`forward` takes it.
        """
        (height, width), outer, feat, x_normal = part
        scales = (out / side for out, side in zip(size, (height, width), strict=True))
        cell = [2 / min(scale, max_scale or scale) for scale in scales]
        phase = self.phase(torch.tensor(cell, dtype=feat.dtype, device=feat.device))
        rows = Axis.of(pixel_centres(size[0], feat)[region.top : region.bottom], height)
        columns = Axis.of(pixel_centres(size[1], feat)[region.left : region.right], width)
        # Counted from the part's first pixel.
        rows, columns = (
            Axis(((axis.coord + 1) * n - 2 * first) / own - 1, axis.pixel - first, axis.distance)
            for axis, n, first, own in (
                (rows, height, outer.top, outer.height),
                (columns, width, outer.left, outer.width),
            )
        )
        is_bounded = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        at_a_time = _QUERIES if is_bounded else region.pixels
        band_height = max(_BAND_PIXELS // outer.width, 1) if is_bounded else outer.height
        result = feat.new_empty(len(feat), 3, region.pixels)
        for top, bottom in bands(rows.pixel[0], band_height):
            first, last = int(rows.pixel[0, top]), int(rows.pixel[1, bottom - 1])
            band = Region(first, last + 1, 0, outer.width)
            around = band.grown(1, (outer.height, outer.width))
            for i, one in enumerate(feat.split(1)):
                table = self.waves(around.of(one), band.inside(around))
                for start in range(top * region.width, bottom * region.width, at_a_time):
                    stop = min(start + at_a_time, bottom * region.width)
                    query = torch.arange(start, stop, device=feat.device)
                    down, right = rows.at(query // region.width), columns.at(query % region.width)
                    down = down._replace(pixel=down.pixel - first)
                    coord = torch.stack([down.coord, right.coord], -1)[None]
                    colour = self.texture(table, outer.width, down, right, phase)
                    colour = colour + interpolated(x_normal[i : i + 1], coord)[0]
                    result[i, :, start:stop] = (colour * 0.5 + 0.5).T
        return result.view(len(feat), 3, region.height, region.width)

    def waves(self, feat: Tensor, region: Region | None = None) -> Tensor:
        """The waves of every pixel of a map or of a region of it.

        Returns:
            (B * H * W, 2 D): amplitudes, frequencies along y, frequencies along x.
        """
        coef, freq = self.coef(feat), self.freq(feat)
        along_y, along_x = freq[:, 0::2], freq[:, 1::2]
        table = torch.cat([coef, along_y, along_x], 1)
        if region is not None:
            table = region.of(table)
        return table.permute(0, 2, 3, 1).flatten(0, 2)

    def texture(
        self, table: Tensor, width: int, rows: Axis, columns: Axis, phase: Tensor
    ) -> Tensor:
        """What the four neighbours of each query say of its colour, by their nearness.

        Args:
            table: of :meth:`waves`.
            width: of the map.
            rows, columns: of Q queries.
            phase: (D / 2,) or (Q, D / 2).

        Returns:
            (Q, 3).
        """
        pixel = rows.pixel[:, None] * width + columns.pixel  # (2, 2, Q)
        dy, dx = rows.distance[:, None].expand(pixel.shape), columns.distance.expand(pixel.shape)
        waves = table[pixel]  # (2, 2, Q, 2 D)
        d = waves.shape[-1] // 2
        coef, along_y, along_x = waves.split([d, d // 2, d // 2], -1)
        # Wide, as bfloat16 does not tell where in a wave one is.
        angle = along_y * (pi * dy[..., None]) + along_x * (pi * dx[..., None])
        angle = angle + pi * phase.to(angle.dtype)
        basis = coef * torch.cat([angle.cos(), angle.sin()], -1).to(coef.dtype)
        colour = self.imnet(basis)
        area = (dy * dx).abs() + _LEAST_AREA
        # A neighbour counts by the rectangle between the query and the opposite neighbour.
        weight = area.flip(0, 1) / area.sum((0, 1))
        return (colour * weight[..., None].to(colour.dtype)).sum((0, 1))


def pixel_centres(n: int, like: Tensor) -> Tensor:
    """Coordinates of the centres of n pixels, (n,), on a tensor's device, in :func:`wide`.

    In float32 rounded as in the public code: waves of high frequency tell the difference.
    """
    return (1 / n - 1) + (2 / n) * torch.arange(n, device=like.device).to(wide(like))


def interpolated(x: Tensor, coord: Tensor) -> Tensor:
    """Bilinear interpolation of (B, C, H, W) at (B, Q, 2), constant beyond its border."""
    # grid_sample takes x before y.
    grid = coord.to(wide(x)).flip(-1)[:, None]
    y = F.grid_sample(x.to(grid.dtype), grid, "bilinear", "border", align_corners=False)
    return y[:, :, 0].transpose(1, 2).to(x.dtype)


def wide(x: Tensor) -> torch.dtype:
    """The type of a tensor, or float32 if that is wider."""
    return torch.promote_types(x.dtype, torch.float32)


def bands(index: Tensor, height: int) -> list[tuple[int, int]]:
    """Cut rows of the result where the row of the map enters the next band of so many rows.

    Args:
        index: (rows,), not falling.
    """
    band = (index - index[0]) // height
    ends = torch.unique_consecutive(band, return_counts=True)[1].cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))
