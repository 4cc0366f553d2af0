"""Any network tile by tile: overlapping tiles whose outer parts are thrown away.

How far the result agrees with that of the whole image depends on how far the network looks:

* Windows (SwinIR, SRFormer, ELAN, HiT-SRF and spandrel's networks that say the side of their
  windows): tiles and overlaps begin at multiples of all of them, so every window holds the pixels
  that it holds in the whole image.  What reaches further than the overlap by many layers is lost.
  ELAN's shifted windows wrap around the image: its tiles at an edge get a strip of the opposite
  one.
* Means over the whole image (RCAN and others with ``AdaptiveAvgPool2d(1)``): the tiles wait
  for each other at every mean, see :mod:`.pooling`.
* Anything else that depends on the whole image: pixels sorted by content (ATD, MambaIRv2, which
  draws noise besides), grids over the image (OmniSR), statistics without a pooling module.  Then
  each tile is enlarged as an image of its own and differs from the whole; the overlap hides seams
  as far as it can.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import lcm

import torch
from torch import Tensor, nn

from esc_arch.archs.elan_arch import ELAN
from esc_arch.fast.maps import Region, tiles
from esc_arch.progress import Progress
from esc_arch.upscale.tiling.outputs import Output
from esc_arch.upscale.tiling.pooling import shared_means

__all__ = ["OVERLAP", "alignment", "enlarge_overlapping", "overlap"]

# Pixels on each side of a tile at least.
OVERLAP = 32

# Where a network does not say the side of its windows.
_ALIGNMENT = 64

# What networks call the sides of their windows.
_NAMES = ("window_size", "window_sizes", "windows", "window", "padding_size", "split_size")

# A multiple of more is of sides that were not meant to fit each other.
_LARGEST = 256


def alignment(network: Callable[[Tensor], Tensor]) -> int:
    """Pixels at whose multiples tiles begin: the least that all windows of the network divide."""
    sides = set(_sides(network)) if isinstance(network, nn.Module) else set()
    multiple = lcm(*sides) if sides else _ALIGNMENT
    return multiple if multiple <= _LARGEST else _ALIGNMENT


def _sides(network: nn.Module) -> Iterator[int]:
    for module in network.modules():
        for name in _NAMES:
            value = getattr(module, name, None)
            for side in value if isinstance(value, Sequence) else (value,):
                if isinstance(side, int) and not isinstance(side, bool) and side > 0:
                    yield side


def overlap(network: Callable[[Tensor], Tensor]) -> int:
    """Pixels around a tile that are computed and thrown away."""
    multiple = alignment(network)
    least = 2 * OVERLAP if _wraps(network) else OVERLAP  # ELAN's 24 modules reach further
    return -(-least // multiple) * multiple


def _wraps(network: Callable[[Tensor], Tensor]) -> bool:
    if not isinstance(network, nn.Module):
        return False
    return any(isinstance(module, ELAN) for module in network.modules())


def enlarge_overlapping(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    scale: int,
    side: tuple[int, int],
    together: int,
    output: Output,
    progress: Progress,
) -> None:
    """Enlarge an image tile by tile.

    Args:
        network: a module in evaluation mode, or any function of (1, C, H, W).
        image: (1, C, H, W).
        scale: by how much the network enlarges.
        side: height and width of a tile in pixels, without the overlap.
        together: how many tiles may be in the network at a time, to take their common means; with
            fewer than all, that many tiles spread over the image stand for it.
        output: takes the parts of the result.
        progress: of the image, 1 in all.
    """
    size, halo = (image.shape[2], image.shape[3]), overlap(network)
    multiple = alignment(network)
    parts = tiles(size, side, multiple)
    outer = [part.grown(halo, size) for part in parts]
    wraps = _wraps(network)
    device = next(
        (p.device for p in network.parameters()) if isinstance(network, nn.Module) else iter(()),
        image.device,
    )

    def compute(i: int) -> Tensor:
        part = outer[i].of(image)
        if wraps:
            part, _ = _with_opposite_edges(image, outer[i], halo, multiple)
        return network(part.contiguous().to(device))

    def deliver(i: int, result: Tensor) -> None:
        inner = parts[i].inside(outer[i])
        if wraps:
            _, (down, right) = _with_opposite_edges(image, outer[i], halo, multiple)
            inner = inner.moved(down, right)
        output(parts[i].scaled(scale), inner.scaled(scale).of(result))
        progress(parts[i].pixels / (size[0] * size[1]))

    shared = shared_means(network)
    if shared is None or len(parts) == 1:
        for i in range(len(parts)):
            deliver(i, compute(i))
        return
    frames = [_Frame(part.inside(whole), whole) for part, whole in zip(parts, outer, strict=True)]
    if together >= len(parts):
        shared.run(range(len(parts)), frames, compute, deliver)
        return
    sample = [i * len(parts) // together for i in range(together)]
    means = shared.run(sample, frames, compute, lambda i, result: None)
    for i in range(len(parts)):
        deliver(i, shared.replay(means, partial(compute, i)))


def _with_opposite_edges(
    image: Tensor, region: Region, strip: int, multiple: int
) -> tuple[Tensor, tuple[int, int]]:
    """A region with strips of the edges opposite to those that it touches.

    The region's edges and the strips' are edges of the image; in between they join where no result
    is wanted.

    Returns:
        (1, C, H', W'), and by how much the region lies lower and further right in it.
    """
    rows, down = _opposite(region.top, region.bottom, image.shape[2], strip, multiple)
    columns, right = _opposite(region.left, region.right, image.shape[3], strip, multiple)
    return image[:, :, rows][:, :, :, columns], (down, right)


def _opposite(start: int, end: int, size: int, strip: int, multiple: int) -> tuple[Tensor, int]:
    """Which pixels of a side to take, and how many of them come before ``start``."""
    own = torch.arange(start, end)
    if end == size:
        before = min(strip, start)
        return torch.cat([torch.arange(before), own]), before
    if start == 0:
        last = max((size - strip) // multiple * multiple, end)
        return torch.cat([own, torch.arange(last, size)]), 0
    return own, 0


class _Frame:
    """Which part of a tile's maps belongs to the tile and not to its overlap."""

    def __init__(self, inner: Region, outer: Region) -> None:
        self._inner, self._size = inner, (outer.height, outer.width)

    def __call__(self, x: Tensor) -> Tensor:
        """(1, C, h, w), at a multiple or a fraction of the tile's resolution -> the part."""
        rows = _scaled(self._inner.top, self._inner.bottom, x.shape[2], self._size[0])
        columns = _scaled(self._inner.left, self._inner.right, x.shape[3], self._size[1])
        return x[:, :, rows, columns]


def _scaled(start: int, end: int, size: int, of: int) -> slice:
    """A part of a side of a tile in a map of another resolution."""
    first = start * size // of
    return slice(first, max(end * size // of, first + 1))
