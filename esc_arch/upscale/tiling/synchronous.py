"""The ESC networks tile by tile with the result of the whole image.

All tiles go through the network together, layer by layer; the maps of the whole image lie in memory
or in a file between the layers.  What the blocks do with them is :mod:`esc_arch.fast`'s; here are
the layers before and behind the blocks.  DySample samples far away: its offsets are
computed first, then the map is read as far as they reach.

So the result differs from the whole image's by the rounding of floating point alone: the sum of the
mean goes by tiles, and kernels may group their sums by the size of the map.  In float64 the
difference stays below 1e-9, in float32 below 1e-4 for images in [0, 1], which is above 90 dB.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from math import ceil
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from esc_arch import fast
from esc_arch.archs.esc_arch import ESC, ESCBlock, ESCFamily
from esc_arch.archs.esc_fp_arch import ESCFP
from esc_arch.archs.esc_lte_arch import (
    ESCLTE,
    HALO,
    LARGEST_TRAINED_SCALE,
    MapPart,
    normalised,
    sides_of_pixels,
    times,
)
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.fast.maps import FeatureMap, Region, tiles
from esc_arch.layers.upsamplers import DySample
from esc_arch.progress import Progress
from esc_arch.upscale.tiling.outputs import Output

__all__ = ["enlarge_synchronously", "fold", "goes_by_tiles", "map_size", "window"]

# Pixels that the bicubic interpolation of ESC-FP looks at around one.
_BICUBIC_REACH = 2


def goes_by_tiles(network: object, dtype: torch.dtype) -> TypeGuard[ESCFamily | ESCLTE]:
    """Whether a network is one of ours, as it was built, and its modules have no hooks."""
    if type(network) is ESCLTE:
        return fast.as_built(network, dtype, network.coef.weight.device)
    if not isinstance(network, ESCFamily) or type(network) not in (ESC, ESCFP, ESCReal, ESCRealM):
        return False
    return fast.as_built(network, dtype, network.last.weight.device)


def window(network: ESCFamily) -> int:
    """The side of the attention's windows in pixels of the maps."""
    block = network.blocks[0]
    assert isinstance(block, ESCBlock)
    return block.attn.window_size


def fold(network: ESCFamily) -> int:
    """How many pixels of the image make a pixel of the maps, along a side."""
    return network.unshuffle if isinstance(network, ESCRealM) else 1


def map_size(network: ESCFamily, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the maps of an image."""
    return -(-size[0] // fold(network)), -(-size[1] // fold(network))


def enlarge_synchronously(
    network: ESCFamily | ESCLTE,
    image: Tensor,
    scale: float,
    side: tuple[int, int],
    make_map: Callable[[int, torch.dtype], FeatureMap],
    output: Output,
    progress: Progress,
) -> None:
    """Enlarge an image tile by tile, layer by layer.

    Args:
        network: in evaluation mode.
        image: (1, 3, H, W), on any device, in the type that the network takes.
        scale: the network's, or any for a network for any scale.
        side: height and width of a tile in pixels of the maps.
        make_map: of so many channels and this type, for maps of :func:`map_size`.
        output: takes the parts of the result.
        progress: of the image, 1 in all.
    """
    with ExitStack() as stack:
        arguments = image, scale, side, make_map, output, progress, stack
        if isinstance(network, ESCLTE):
            _AnyScaleRun(network, *arguments).run()
        else:
            _Run(network, *arguments).run()


class _Run:
    def __init__(
        self,
        network: ESCFamily,
        image: Tensor,
        scale: float,
        side: tuple[int, int],
        make_map: Callable[[int, torch.dtype], FeatureMap],
        output: Output,
        progress: Progress,
        stack: ExitStack,
    ) -> None:
        self.network, self.output = network, output
        self._make_map, self._stack = make_map, stack
        self.fold = fold(network)
        height, width = image.shape[2:]
        self.result_size = times(height, scale), times(width, scale)
        self.image = network.pad(image) if isinstance(network, ESCRealM) else image
        self.size = map_size(network, (height, width))
        self.device = next(network.parameters()).device
        self.dim = network.last.out_channels
        self.tiles = tiles(self.size, side, window(network))
        stages = 2 if _sampler(network)[0] is None else 3
        stages += sum(fast.layers(block) for block in network.blocks)
        self.halo = _halo(network)
        self._progress, self._step = progress, 1 / stages / (self.size[0] * self.size[1])

    def run(self) -> None:
        first = self.shallow(self.tiles[0])
        skip, x, y = (self.make_map(self.dim, first.dtype) for _ in range(3))
        del first
        for tile in self:
            skip.write(tile, self.shallow(tile))
        large_kernel = self.network.large_kernel()
        for block in self.network.blocks:
            fast.run_tiles(block, large_kernel, fast.Maps(skip, x, y), self)
            skip, y = y, skip  # what was made is the next block's input
        x.close()
        y.close()
        self.upsample(skip)

    def make_map(self, channels: int, dtype: torch.dtype) -> FeatureMap:
        made = self._make_map(channels, dtype)
        self._stack.callback(made.close)
        return made

    def __iter__(self) -> Iterator[Region]:
        """The tiles, once through, with progress."""
        for tile in self.tiles:
            yield tile
            self._progress(tile.pixels * self._step)

    def of_image(self, tile: Region) -> Tensor:
        return tile.scaled(self.fold).of(self.image).to(self.device)

    def shallow(self, tile: Region) -> Tensor:
        outer = tile.grown(1, self.size)
        return tile.inside(outer).of(self.network.shallow(self.of_image(outer)))

    def upsample(self, feat: FeatureMap) -> None:
        dysample, before = _sampler(self.network)
        if dysample is None:
            for tile in self:
                outer, deep = self.deep(feat, tile)
                result = self.network.upsample(deep, self.of_image(outer))
                self.deliver(tile, tile.inside(outer), result)
            return
        sampled = None
        for tile in self:
            outer, deep = self.deep(feat, tile)
            part = tile.inside(outer).of(before(deep + self.network.skip(self.of_image(outer))))
            if sampled is None:
                sampled = self.make_map(part.shape[1], part.dtype)
            sampled.write(tile, part)
        assert sampled is not None  # an image has a tile
        for tile in self:
            farthest = dysample.offsets(sampled.view(tile)).abs().max().item()
            outer = tile.grown(ceil(farthest) + 1, self.size)
            self.deliver(tile, tile.inside(outer), dysample(sampled.view(outer)))

    def deep(self, feat: FeatureMap, tile: Region) -> tuple[Region, Tensor]:
        """The features of the image around a tile, and of which region."""
        outer = tile.grown(self.halo, self.size)
        shallow = self.network.shallow(self.of_image(outer))
        return outer, self.network.deep(feat.view(outer), shallow)

    def deliver(self, tile: Region, inner: Region, result: Tensor) -> None:
        scale = self.fold * self.network.upscaling_factor
        region = tile.scaled(scale).clipped(self.result_size)
        inner = inner.scaled(scale)
        inner = Region(inner.top, inner.top + region.height, inner.left, inner.left + region.width)
        self.output(region, inner.of(result))


class _AnyScaleRun(_Run):
    """By a network for any scale: ESC's features, from which the parts of the result are read."""

    def __init__(self, head: ESCLTE, image: Tensor, *arguments: Any) -> None:
        super().__init__(head.encoder, normalised(image), *arguments)
        self.head = head
        self.halo = _halo(head.encoder) + HALO
        self.cell = sides_of_pixels(self.result_size, self.size, LARGEST_TRAINED_SCALE, image)
        self.cell = self.cell.to(self.device)

    def upsample(self, feat: FeatureMap) -> None:
        for tile in self:
            region = self.of_result(tile)
            if region.pixels:
                outer, deep = self.deep(feat, tile)
                part = MapPart(self.size, outer, deep, self.of_image(outer))
                self.output(region, self.head.decode(part, region, self.result_size, self.cell))

    def of_result(self, tile: Region) -> Region:
        """The pixels of the result whose centres lie in a tile."""
        height, width = (out / side for out, side in zip(self.result_size, self.size, strict=True))
        top, bottom = (ceil(row * height - 0.5) for row in (tile.top, tile.bottom))
        left, right = (ceil(column * width - 0.5) for column in (tile.left, tile.right))
        return Region(max(top, 0), bottom, max(left, 0), right).clipped(self.result_size)


def _halo(network: ESCFamily) -> int:
    """Pixels of a map around a tile that the layers behind the blocks need, without DySample."""
    _, before = _sampler(network)
    skip = _reach(_of_maps(network.skip)) if hasattr(network, "skip") else 0
    deep = _reach([*_of_maps(network.proj), network.last])
    return max(_reach([before]), _BICUBIC_REACH) + max(skip, deep)


def _reach(modules: Iterable[nn.Module]) -> int:
    found = fast.reach(modules)
    assert found is not None  # goes_by_tiles knows them all
    return found[0]


def _of_maps(module: nn.Module) -> list[nn.Module]:
    """The layers that read the image, without the folding of its pixels: in pixels of the maps."""
    layers = module if isinstance(module, nn.Sequential) else [module]
    return [layer for layer in layers if not isinstance(layer, nn.PixelUnshuffle)]


def _sampler(network: ESCFamily) -> tuple[DySample | None, nn.Module]:
    """The network's DySample, if it has one, and the layers before it."""
    to_img = getattr(network, "to_img", None)  # not in an encoder
    if isinstance(to_img, DySample):
        return to_img, nn.Identity()
    if isinstance(to_img, nn.Sequential) and isinstance(to_img[-1], DySample):
        return to_img[-1], nn.Sequential(*list(to_img)[:-1])
    return None, nn.Identity() if to_img is None else to_img
