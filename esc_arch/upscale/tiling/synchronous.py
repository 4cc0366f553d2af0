"""The ESC networks tile by tile with the result of the whole image.

What makes tiles differ from the whole image is the dynamic kernel: it follows from the mean of
a map over all pixels.  So all tiles go through the network together, layer by layer; the maps of
the whole image lie in a store between the layers, and the mean is taken over all tiles before any
of them goes on.  Everything else is local:

* a convolution reads as many pixels around the tile as its kernel reaches (the halo), and zeros
  only where the image itself ends;
* tiles are cut between attention windows; a window that the image ends in stays in one tile with
  the one before it, into which its reflection reaches;
* what DySample samples far away is looked for before it is read.

So the result differs from the whole image's by the rounding of floating point alone: the sum of the
mean goes by tiles, and kernels may group their sums by the size of the map.  In float64 the
difference stays below 1e-9, in float32 below 1e-4 for images in [0, 1], which is above 90 dB.

The modules of the network do the arithmetic, on tiles instead of the whole map.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import ceil

import torch
from torch import Tensor, nn

from esc_arch.archs.esc_arch import ESC
from esc_arch.archs.esc_fp_arch import ESCFP
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.layers.conv_attention import ConvAttnWrapper
from esc_arch.layers.conv_ffn import ConvFFN, feed_forward
from esc_arch.layers.dysample import DySample
from esc_arch.layers.esc_block import ESCBlock
from esc_arch.layers.window_attention import attend
from esc_arch.ops.bands import by_bands
from esc_arch.upscale.tiling.regions import Region, tiles
from esc_arch.upscale.tiling.sinks import Sink
from esc_arch.upscale.tiling.stores import Store

__all__ = ["Family", "enlarge_synchronously", "fold", "map_size", "window"]

Family = ESC | ESCFP | ESCReal | ESCRealM

# Pixels around a tile that the upsampling of its features needs: each 3x3 convolution one at its
# own resolution, bicubic interpolation two.
_UPSAMPLING_HALO = {ESC: 1, ESCFP: 2, ESCReal: 2, ESCRealM: 3}
# What lies before it: the skip from the image looks 3 pixels far; the last convolution and the
# shallow features together 2.
_SKIP_HALO = 3


def window(network: Family) -> int:
    """The side of the attention's windows in pixels of the maps."""
    return network.blocks[0].attn.window_size


def fold(network: Family) -> int:
    """How many pixels of the image make a pixel of the maps, along a side."""
    return network.unshuffle if isinstance(network, ESCRealM) else 1


def map_size(network: Family, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the maps of an image."""
    return tuple(-(-side // fold(network)) for side in size)


def enlarge_synchronously(
    network: Family,
    image: Tensor,
    side: tuple[int, int],
    make_store: Callable[[int, torch.dtype], Store],
    sink: Sink,
    advance: Callable[[float], None],
) -> None:
    """Enlarge an image tile by tile, layer by layer.

    Args:
        network: in evaluation mode.
        image: (1, 3, H, W), on any device, in the type that the network takes.
        side: height and width of a tile in pixels of the maps.
        make_store: of so many channels and this type, for maps of :func:`map_size`.
        sink: takes the parts of the result.
        advance: told what part of the work has been done since it was told last, 1 in all.
    """
    with ExitStack() as stores:
        _Run(network, image, side, make_store, sink, advance, stores).run()


class _Run:
    def __init__(
        self,
        network: Family,
        image: Tensor,
        side: tuple[int, int],
        make_store: Callable[[int, torch.dtype], Store],
        sink: Sink,
        advance: Callable[[float], None],
        stores: ExitStack,
    ) -> None:
        self.network, self.sink, self._make_store, self._stores = network, sink, make_store, stores
        self.fold, self.scale = fold(network), network.upscaling_factor
        self.result_size = tuple(side * self.scale for side in image.shape[2:])
        self.image = network.pad(image) if isinstance(network, ESCRealM) else image
        self.size = map_size(network, image.shape[2:])
        self.device = next(network.parameters()).device
        self.dim = network.last.out_channels
        self.tiles = tiles(self.size, side, window(network))
        blocks = network.blocks
        stages = 2 if _sampler(network)[0] is None else 3
        stages += sum(2 + 2 * len(block.pconvs) for block in blocks)
        self._advance, self._step = advance, 1 / stages / (self.size[0] * self.size[1])

    def run(self) -> None:
        first = self.shallow(self.tiles[0])
        skip, x, y = (self.store(self.dim, first.dtype) for _ in range(3))
        del first
        for tile in self.each_tile():
            skip.write(tile, self.shallow(tile))
        large_kernel = self.network.large_kernel()
        for block in self.network.blocks:
            self.attend(block, skip, x, y)
            for ln, ffn, pconv in zip(block.lns, block.convffns, block.pconvs, strict=True):
                kernel = self.mix(ffn, ln, pconv, x, y)
                self.convolve(pconv, large_kernel, kernel, x, y)
            self.finish(block, skip, x)
        x.close()
        y.close()
        self.upsample(skip)

    def store(self, channels: int, dtype: torch.dtype) -> Store:
        store = self._make_store(channels, dtype)
        self._stores.callback(store.close)
        return store

    def each_tile(self) -> Iterator[Region]:
        for tile in self.tiles:
            yield tile
            self._advance(tile.pixels * self._step)

    def of_image(self, tile: Region) -> Tensor:
        return tile.scaled(self.fold).of(self.image).to(self.device)

    def shallow(self, tile: Region) -> Tensor:
        outer = tile.grown(1, self.size)
        return tile.inside(outer).of(self.network.shallow(self.of_image(outer)))

    def attend(self, block: ESCBlock, skip: Store, x: Store, y: Store) -> None:
        """x = attention of the block's first feed-forward network of skip."""
        halo = _reach(block.proj)
        for tile in self.each_tile():
            outer = tile.grown(halo, self.size)
            around, margins = skip.view(outer), tile.margins(outer)
            part = feed_forward(block.proj, block.ln_proj, around, y.space(tile), margins)
            x.write(tile, attend(block.attn, block.ln_attn, part, x.space(tile)))

    def mix(
        self, ffn: ConvFFN, ln: nn.Module, pconv: ConvAttnWrapper, x: Store, y: Store
    ) -> Tensor:
        """y = feed-forward network of x; the dynamic kernel of all of y."""
        halo, pdim = _reach(ffn), pconv.plk.pdim
        total = torch.zeros(1, pdim, 1, 1, dtype=torch.float64, device=self.device)
        for tile in self.each_tile():
            outer = tile.grown(halo, self.size)
            part = feed_forward(ffn, ln, x.view(outer), y.space(tile), tile.margins(outer))
            total += part[:, :pdim].sum((2, 3), keepdim=True, dtype=torch.float64)
            y.write(tile, part)
        mean = total / (self.size[0] * self.size[1])
        return pconv.plk.dynamic_kernel(mean.to(part.dtype))

    def convolve(
        self,
        pconv: ConvAttnWrapper,
        large_kernel: Tensor | tuple[Tensor, Tensor],
        dynamic_kernel: Tensor,
        x: Store,
        y: Store,
    ) -> None:
        """x = x + convolutional attention of y."""
        kernel = large_kernel if isinstance(large_kernel, Tensor) else large_kernel[-1]
        halo = kernel.shape[-1] // 2
        for tile in self.each_tile():
            outer = tile.grown(halo, self.size)
            around, margins = y.view(outer), tile.margins(outer)
            first = around[:, : pconv.plk.pdim]
            convolved = pconv.plk.convolve(first, large_kernel, dynamic_kernel, margins)
            # The other tiles still need the unconvolved channels of y.
            part = margins.inner(around)
            x.write(tile, pconv.aggregate(convolved, part, x.take(tile), keep_x=True))

    def finish(self, block: ESCBlock, skip: Store, x: Store) -> None:
        """skip = skip + the block's last convolution of x."""
        halo = _radius(block.conv_out)
        for tile in self.each_tile():
            outer = tile.grown(halo, self.size)
            before = skip.take(tile)
            part = by_bands(
                *(lambda x: block.conv_out(block.ln_out(x)), x.view(outer)),
                halo=halo,
                residual=before,
                reuse=before,
                margins=tile.margins(outer),
            )
            skip.write(tile, part)

    def upsample(self, feat: Store) -> None:
        dysample, before = _sampler(self.network)
        if dysample is None:
            for tile in self.each_tile():
                outer, deep = self.deep(feat, tile)
                result = self.network.upsample(deep, self.of_image(outer))
                self.deliver(tile, tile.inside(outer), result)
            return
        sampled = None
        for tile in self.each_tile():
            outer, deep = self.deep(feat, tile)
            part = tile.inside(outer).of(before(deep + self.network.skip(self.of_image(outer))))
            if sampled is None:
                sampled = self.store(part.shape[1], part.dtype)
            sampled.write(tile, part)
        for tile in self.each_tile():
            farthest = dysample.offsets(sampled.view(tile)).abs().max().item()
            outer = tile.grown(ceil(farthest) + 1, self.size)
            self.deliver(tile, tile.inside(outer), dysample(sampled.view(outer)))

    def deep(self, feat: Store, tile: Region) -> tuple[Region, Tensor]:
        """The features of the image around a tile, and of which region."""
        outer = tile.grown(_UPSAMPLING_HALO[_kind(self.network)] + _SKIP_HALO, self.size)
        shallow = self.network.shallow(self.of_image(outer))
        return outer, self.network.deep(feat.view(outer), shallow)

    def deliver(self, tile: Region, inner: Region, result: Tensor) -> None:
        scale = self.fold * self.scale
        region = tile.scaled(scale).clipped(self.result_size)
        inner = inner.scaled(scale)
        inner = Region(inner.top, inner.top + region.height, inner.left, inner.left + region.width)
        self.sink(region, inner.of(result))


def _kind(network: Family) -> type[nn.Module]:
    return next(kind for kind in _UPSAMPLING_HALO if isinstance(network, kind))


def _radius(conv: nn.Conv2d) -> int:
    return conv.kernel_size[0] // 2


def _reach(ffn: ConvFFN) -> int:
    return _radius(ffn.dwc)


def _sampler(network: Family) -> tuple[DySample | None, Callable[[Tensor], Tensor]]:
    """The network's DySample, if it has one, and what comes before it."""
    to_img = network.to_img
    if isinstance(to_img, DySample):
        return to_img, nn.Identity()
    if isinstance(to_img, nn.Sequential) and isinstance(to_img[-1], DySample):
        return to_img[-1], nn.Sequential(*list(to_img)[:-1])
    return None, to_img
