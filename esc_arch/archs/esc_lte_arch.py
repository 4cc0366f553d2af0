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

__all__ = [
    "ESCLTE",
    "HALO",
    "LARGEST_TRAINED_SCALE",
    "LEAST_AREA",
    "SHIFT",
    "ESCEncoder",
    "ESCLTEConfig",
    "MapPart",
    "normalised",
    "sides_of_pixels",
    "times",
]

# Of the published training: for larger scales ``max_scale`` is this in all tests.
LARGEST_TRAINED_SCALE = 4

# Numbers of the waves of one neighbour that are computed at a time in inference: those of all four
# stay in the processor's cache.
_WAVES = 1 << 17
# Map pixels whose waves are held at a time in inference.
_BAND_PIXELS = 1 << 15
# Pixels of the map around those that a region of the result lies in, which it depends on: the other
# neighbour's, and one around that for the convolution that gives its waves.
HALO = 2
# By how much a neighbour is looked for beyond half a pixel, so that a query at a pixel's centre
# has an answer, and how far within the image it stays.
SHIFT = 1e-6
# Keeps the weights finite where all four neighbours are the same pixel.
LEAST_AREA = 1e-9


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


@fast.known
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
        near = torch.stack([coord - 1 / n, coord + 1 / n]) + SHIFT
        near = near.clamp(-1 + SHIFT, 1 - SHIFT)
        pixel = (((near + 1) * n - 1) / 2).round().long()
        return cls(coord, pixel, (coord - pixel_centres(n, coord)[pixel]) * n)

    def within(self, first: int, end: int, n: int) -> "Axis":
        """Counted within a part of the side, pixels ``first`` to ``end``, excluded, of n."""
        coord = ((self.coord + 1) * n - 2 * first) / (end - first) - 1
        return Axis(coord, self.pixel - first, self.distance)

    def at(self, which: Tensor) -> "Axis":
        """Of some of the queries."""
        return Axis(*(values[..., which] for values in self))


class MapPart(NamedTuple):
    """A part of an image and of its features.

    Attributes:
        size: H and W of the whole map.
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

    Attributes:
        any_scale: tells it from networks of one scale, as ``any_scale`` of ONNX files does.

    Raises:
        ValueError: when the arguments do not fit each other.
    """

    any_scale = True

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
        self.blueprint = fast.Blueprint.of(self)

    def convert(self) -> None:
        """Store the encoder's large kernel folded, see :meth:`ESCFamily.convert`."""
        self.encoder.convert()

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
                beyond the scales of their training: :data:`LARGEST_TRAINED_SCALE`.

        Raises:
            ValueError: when the arguments do not fit each other.
        """
        image = x.shape[2], x.shape[3]
        if coord is None:
            size = self.result_size(image, size, scale)
        elif cell is None or size is not None or scale is not None:
            raise ValueError("coord goes with cell, and without size and scale")
        mapped = self.mapped(x)
        if coord is not None and cell is not None:
            return self.answers(mapped, coord, cell)
        assert size is not None
        cell = sides_of_pixels(size, image, max_scale, x)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.is_meta:
            # All queries at once: a graph would hold them in any case, and a tensor without values
            # says nothing of where bands end.
            coord = torch.cartesian_prod(*(pixel_centres(n, x) for n in size))
            coord, cell = coord.expand(x.shape[0], -1, -1), cell.expand(x.shape[0], 2)
            y = self.answers(mapped, coord, cell).mT.reshape(-1, 3, *size)
        else:
            y = self.decode(mapped, Region(0, size[0], 0, size[1]), size, cell)
        return like_input(y, x)

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
            return times(image[0], down), times(image[1], right)
        height, width = size
        if not (hasattr(height, "__index__") and hasattr(width, "__index__")):
            raise ValueError(f"size {height} x {width} is not in whole pixels")
        if height < 1 or width < 1:
            raise ValueError(f"size {height} x {width} has no pixels")
        return height, width

    def mapped(self, x: Tensor) -> MapPart:
        """Images with their features."""
        x_normal, size = normalised(x), (x.shape[2], x.shape[3])
        return MapPart(size, Region(0, size[0], 0, size[1]), self.encoder(x_normal), x_normal)

    def answers(self, mapped: MapPart, coord: Tensor, cell: Tensor) -> Tensor:
        """The colours (B, Q, 3) at coordinates (B, Q, 2), for training and for graphs."""
        (height, width), _, feat, x_normal = mapped
        batch, queries = feat.shape[0], coord.shape[1]
        y, x = coord.to(wide(coord)).flatten(0, 1).unbind(-1)
        rows, columns = Axis.of(y, height), Axis.of(x, width)
        # In the table the maps of the batch lie one below the other.
        image = torch.arange(batch, device=feat.device)[:, None].expand(-1, queries).flatten()
        rows = rows._replace(pixel=rows.pixel + image * height)
        cell = cell if cell.dim() == 3 else cell[:, None].expand(-1, queries, -1)
        phase = self.phases(cell, height, width).flatten(0, 1)
        texture = self.texture(self.waves(feat), width, rows, columns, phase)
        return (texture.view(batch, queries, 3) + interpolated(x_normal, coord)) * 0.5 + 0.5

    def decode(self, part: MapPart, region: Region, size: tuple[int, int], cell: Tensor) -> Tensor:
        """A region of the result, (B, 3, *region), in inference.

        Queries go in bands of the map's rows, and some at a time in these, so that the memory on
        top of the result does not grow with it.

        Args:
            part: of the map, that reaches :data:`HALO` pixels further than the region.
            region: of the result.
            size: H' and W' of the whole result.
            cell: (2,), sides of its pixels, in coordinates.
        """
        (height, width), outer, feat, x_normal = part
        phase = self.phases(cell, height, width)
        rows = Axis.of(pixel_centres(size[0], feat)[region.top : region.bottom], height)
        columns = Axis.of(pixel_centres(size[1], feat)[region.left : region.right], width)
        rows = rows.within(outer.top, outer.bottom, height)
        columns = columns.within(outer.left, outer.right, width)
        # Of the image's type: under autocast the features' is narrower.
        result = x_normal.new_empty(len(feat), 3, region.pixels)
        at_a_time = max(_WAVES // self.coef.out_channels, 1)
        for top, bottom, band in bands(rows.pixel, outer):
            around = band.grown(1, (outer.height, outer.width))
            first, end = top * region.width, bottom * region.width
            for one, x, colours in zip(feat.split(1), x_normal.split(1), result, strict=True):
                table = self.waves(around.of(one), band.inside(around))
                for start in range(first, end, at_a_time):
                    query = torch.arange(start, min(start + at_a_time, end), device=feat.device)
                    down, right = rows.at(query // region.width), columns.at(query % region.width)
                    coord = torch.stack([down.coord, right.coord], -1)[None]
                    down = down._replace(pixel=down.pixel - band.top)
                    colour = self.texture(table, outer.width, down, right, phase)
                    colour = (colour + interpolated(x, coord)[0]) * 0.5 + 0.5
                    colours[:, start : start + len(query)] = colour.T
        return result.view(len(feat), 3, region.height, region.width)

    def phases(self, cell: Tensor, height: int, width: int) -> Tensor:
        """The phases (..., D / 2) of cells (..., 2) over a map of this size."""
        down, right = cell.unbind(-1)
        return self.phase(torch.stack([down * height, right * width], -1).to(self.phase.weight))

    def waves(self, feat: Tensor, region: Region | None = None) -> Tensor:
        """The waves of every pixel of a map or of a region of it.

        Returns:
            (B * H * W, 2 D): amplitudes, frequencies along y, frequencies along x.
        """
        coef, freq = self.coef(feat), self.freq(feat)
        maps = [coef, freq[:, 0::2], freq[:, 1::2]]
        if region is not None:
            maps = [region.of(part) for part in maps]
        # The numbers of a pixel side by side: they are read together, many times.
        return torch.cat([part.permute(0, 2, 3, 1) for part in maps], -1).flatten(0, 2)

    def texture(
        self, table: Tensor, width: int, rows: Axis, columns: Axis, phase: Tensor
    ) -> Tensor:
        """The colour of each query by its four neighbours, weighed by their nearness.

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
        # A fraction of the time of table[pixel].
        waves = table.index_select(0, pixel.flatten()).unflatten(0, pixel.shape)  # (2, 2, Q, 2 D)
        d = waves.shape[-1] // 2
        coef, along_y, along_x = waves.split([d, d // 2, d // 2], -1)
        # Wide, as bfloat16 does not tell where in a wave one is.
        angle = along_y * (pi * dy[..., None]) + along_x * (pi * dx[..., None])
        angle = angle + pi * phase.to(angle.dtype)
        basis = coef * torch.cat([angle.cos(), angle.sin()], -1).to(coef.dtype)
        colour = self.imnet(basis)
        area = (dy * dx).abs() + LEAST_AREA
        # A neighbour counts by the rectangle between the query and the opposite neighbour.
        weight = area.flip(0, 1) / area.sum((0, 1))
        return (colour * weight[..., None].to(colour.dtype)).sum((0, 1))


def normalised(x: Tensor) -> Tensor:
    """From [0, 1] to [-1, 1], which the network computes in."""
    return (x - 0.5) / 0.5


def times(side: int, factor: float) -> int:
    """So many pixels, to the nearest whole one."""
    # Rounding a product of integers would fix an exported graph's sizes.
    return side * factor if isinstance(factor, int) else max(1, round(side * factor))


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


def bands(pixel: Tensor, outer: Region) -> list[tuple[int, int, Region]]:
    """Cut rows of the result where they enter the next band of the map's rows.

    Args:
        pixel: (2, rows), the rows of the map before and after each, from 0 on in ``outer``.
        outer: the part of the map that there is.

    Returns:
        The first row of the result, that after the last, and the rows of the map that they need.
    """
    height = max(_BAND_PIXELS // outer.width, 1)
    counts = torch.unique_consecutive(pixel[0] // height, return_counts=True)[1]
    ends = counts.cumsum(0).tolist()
    return [
        (top, bottom, Region(int(pixel[0, top]), int(pixel[1, bottom - 1]) + 1, 0, outer.width))
        for top, bottom in zip([0, *ends[:-1]], ends, strict=True)
    ]


def sides_of_pixels(
    size: tuple[int, int], image: tuple[int, int], max_scale: float | None, like: Tensor
) -> Tensor:
    """The cell (2,) of a result of an image, as :class:`ESCLTE` takes it."""
    seen = size if max_scale is None else map(min, size, (side * max_scale for side in image))
    # Not of a list: an exported graph would keep its numbers.
    return torch.stack([like.new_full((), 2 / side, dtype=wide(like)) for side in seen])


def wide(x: Tensor) -> torch.dtype:
    """The type of a tensor, or float32 if that is wider."""
    return torch.promote_types(x.dtype, torch.float32)
