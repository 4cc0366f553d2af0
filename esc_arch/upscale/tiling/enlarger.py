"""Enlarges an image of any size: whole, or by the tiles that fit the memory."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from esc_arch.archs.esc_arch import ESCFamily
from esc_arch.archs.esc_lte_arch import ESCLTE, LARGEST_TRAINED_SCALE, sides_of_pixels, times
from esc_arch.deployment import Deployed
from esc_arch.errors import UserError
from esc_arch.fast.maps import FeatureMap, Region, TensorMap
from esc_arch.progress import Progress
from esc_arch.upscale.tiling.feature_file import FileMap
from esc_arch.upscale.tiling.memory import (
    AMPLE_BYTES_PER_PIXEL,
    available_memory,
    bytes_per_pixel,
    is_out_of_memory,
    release_memory,
    side_of_tiles,
)
from esc_arch.upscale.tiling.outputs import Output, TensorOutput
from esc_arch.upscale.tiling.overlapping import alignment, enlarge_overlapping, overlap
from esc_arch.upscale.tiling.synchronous import (
    enlarge_synchronously,
    fold,
    goes_by_tiles,
    map_size,
    window,
)

__all__ = ["enlarge"]

# Pixels of a tile of the ESC networks at most: more is not faster on a CPU.
_LARGEST_TILE = {"cpu": 1 << 17, "cuda": 1 << 20}

# Memory that a tile takes, in maps of its size: three regions of the feature maps and what the
# layers make of them; on a CPU the layers go by bands inside the tile.
_MAPS_OF_TILE = {"cpu": 8, "cuda": 20}

# Pixels of the result of a network for any scale that are delivered at a time.
_DELIVERED = 1 << 20

# Widest of what the kernel of ConvAttn and the upsampling read around a tile.
_HALO = 6

# What a tile of another network holds while it waits for the others at a mean, as a part of what
# the network takes at its peak.
_WAITING = 0.4


def enlarge(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    scale: float,
    *,
    memory: int | None = None,
    tile: str | int = "auto",
    scratch: Path | None = None,
    progress: Progress | None = None,
    output: Output | None = None,
) -> Tensor | None:
    """Enlarge an image of any size.

    ``tile="auto"`` enlarges it whole where that fits the memory (the network is measured for
    this), else by tiles.  The ESC networks then keep their maps in main memory, or, where they do
    not fit, in a file; the result is that of the whole image up to the rounding of floating
    point.  Other networks get overlapping tiles; see :mod:`esc_arch.upscale.tiling` for how far
    these agree.  When memory runs out all the same, a second attempt is made with smaller tiles.

    Args:
        network: a module in evaluation mode, or any function of (1, C, H, W).
        image: (B, C, H, W) in [0, 1], on any device, in a type that the network takes.
        scale: r, a fraction for a network for any scale.
        memory: bytes that may be taken on top of the network and the image, on the network's
            device; the float result counts where there is no output.  None: half of what is
            available now, on a GPU 0.9.
        tile: ``"auto"``, ``"off"`` for the whole image in any case, or the side of a tile in
            pixels of the image, of which a multiple of the attention's windows is made.
        scratch: folder for temporary files; None: the system's.
        progress: of the work, 1 in all.
        output: takes the finished parts, of one image; see
            :class:`esc_arch.upscale.tiling.ArrayOutput`.  Nothing is returned then.

    Returns:
        (B, C', rH, rW), sides rounded, on the image's device, when there is no output.

    Raises:
        UserError: when ``tile`` is none of these, or the scratch folder has no room.
        ValueError: for an output and more than one image.
    """
    _check_tile(tile)
    progress = progress or Progress()
    if output is not None and len(image) != 1:
        raise ValueError(f"an output takes one image, not {len(image)}")
    with torch.no_grad():
        if output is not None:
            part = progress.part()
            _Enlarging(network, image, scale, memory, tile, scratch, part, output).run()
            return None
        results = []
        for one in image.split(1):
            shape = (1, 1, times(image.shape[2], scale), times(image.shape[3], scale))
            result = TensorOutput(shape, image.device)
            part = progress.part(1 / len(image))
            _Enlarging(network, one, scale, memory, tile, scratch, part, result).run()
            assert result.result is not None  # an image has a part
            results.append(result.result)
    return results[0] if len(results) == 1 else torch.cat(results)


def _check_tile(tile: str | int) -> None:
    if tile in ("auto", "off"):
        return
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise UserError(
            f"tile: expected auto, off or a number of pixels from 1; found {tile!r}. Name one."
        )


class _Enlarging:
    """One image."""

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        image: Tensor,
        scale: float,
        memory: int | None,
        tile: str | int,
        scratch: Path | None,
        progress: Progress,
        output: Output,
    ) -> None:
        self.network: Callable[..., Tensor] = network
        self.image, self.scale = image, scale
        self.tile, self.scratch, self.output, self.progress = tile, scratch, output, progress
        self.size = image.shape[2], image.shape[3]
        self.pixels = self.size[0] * self.size[1]
        self.inner, self.dtype = _innermost(network, image.dtype)
        parameters = self.inner.parameters() if isinstance(self.inner, nn.Module) else iter(())
        self.device = next((p.device for p in parameters), image.device)
        self.memory = available_memory(self.device) if memory is None else memory

    def run(self) -> None:
        if self.tile == "off":
            attempts = [self.whole]
        else:
            first = self.whole if self.starts_whole() else lambda: self.by_tiles(1)
            attempts = [first, lambda: self.by_tiles(2)]
        for attempt in attempts:
            try:
                attempt()
                break
            except Exception as error:
                if attempt is attempts[-1] or not is_out_of_memory(error):
                    raise
            # Outside of the handler, as the error keeps the maps of its frames alive.
            release_memory()
            self.progress.restart()
        self.progress.finish()

    def starts_whole(self) -> bool:
        if self.tile != "auto":
            return False
        # Measuring takes time, and is not needed for an image that fits in any case.
        if self.pixels * AMPLE_BYTES_PER_PIXEL <= self.memory:
            return True
        return self.pixels * bytes_per_pixel(self.network, self.image) <= self.memory

    def whole(self) -> None:
        image = self.image.to(self.device)
        height, width = times(self.size[0], self.scale), times(self.size[1], self.scale)
        if not isinstance(self.inner, ESCLTE):
            is_asked = getattr(self.inner, "any_scale", False)
            result = self.network(image, **({"size": (height, width)} if is_asked else {}))
            self.output(Region(0, result.shape[2], 0, result.shape[3]), result)
            return
        mapped = self.inner.mapped(image.to(self.dtype))
        cell = sides_of_pixels((height, width), self.size, LARGEST_TRAINED_SCALE, image)
        for region in Region(0, height, 0, width).bands(max(_DELIVERED // width, 1)):
            part = self.inner.decode(mapped, region, (height, width), cell)
            self.output(region, part.to(self.image.dtype))
            self.progress(region.height / height)

    def by_tiles(self, shrink: int) -> None:
        """By tiles whose sides are ``1 / shrink`` of those that should fit."""
        memory = self.memory
        if isinstance(self.output, TensorOutput) and self.image.device == self.device:
            memory -= int(self.pixels * self.scale**2 * 3 * self.image.element_size())
        if goes_by_tiles(self.inner, self.dtype):
            self.by_synchronous_tiles(self.inner, max(memory, 0), shrink)
        elif getattr(self.inner, "any_scale", False):
            self.whole()  # with modules that were replaced, which may look at the whole map
        else:
            self.by_overlapping_tiles(max(memory, 0), shrink)

    def by_synchronous_tiles(self, network: ESCFamily | ESCLTE, memory: int, shrink: int) -> None:
        family = network.encoder if isinstance(network, ESCLTE) else network
        size = map_size(family, self.size)
        kind = "cuda" if self.device.type == "cuda" else "cpu"
        pixel = family.last.out_channels * self.dtype.itemsize
        of_tile = _MAPS_OF_TILE[kind] * pixel
        of_tile += int(4 * 3 * (fold(family) * self.scale) ** 2 * self.dtype.itemsize)
        # A GPU's maps lie in main memory.
        room = memory if kind == "cpu" else available_memory(torch.device("cpu"))
        maps = 3 * pixel * size[0] * size[1]
        tile_at_least = of_tile * (2 * window(family) + 2 * _HALO) ** 2
        in_memory = maps + (tile_at_least if kind == "cpu" else 0) <= room
        if isinstance(self.tile, int):
            side = (max(self.tile // fold(family), 1),) * 2
        else:
            left = memory - maps if in_memory and kind == "cpu" else memory
            pixels = min(int(left / of_tile), _LARGEST_TILE[kind])
            side = side_of_tiles(size, window(family), _HALO, pixels)

        def make_map(channels: int, dtype: torch.dtype) -> FeatureMap:
            if in_memory:
                return TensorMap.empty((1, channels, *size), dtype, self.device)
            return FileMap(channels, size, dtype, self.device, self.scratch)

        enlarge_synchronously(
            network,
            self.image.to(self.dtype),
            self.scale,
            (-(-side[0] // shrink), -(-side[1] // shrink)),
            make_map,
            lambda region, part: self.output(region, part.to(self.image.dtype)),
            self.progress,
        )

    def by_overlapping_tiles(self, memory: int, shrink: int) -> None:
        pixel = bytes_per_pixel(self.network, self.image)
        multiple, halo = alignment(self.inner), overlap(self.inner)
        if isinstance(self.tile, int):
            side = (self.tile, self.tile)
        else:
            side = side_of_tiles(self.size, multiple, halo, int(memory / pixel))
        side = -(-side[0] // shrink), -(-side[1] // shrink)
        largest = (max(s, multiple) + 2 * halo for s in side)
        of_tile = pixel * min(next(largest), self.size[0]) * min(next(largest), self.size[1])
        together = max(int((memory - of_tile) / (_WAITING * of_tile)), 1)
        scale = int(self.scale)  # of a network of one scale
        enlarge_overlapping(
            self.network, self.image, scale, side, together, self.output, self.progress
        )


def _innermost(
    network: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> tuple[Callable[[Tensor], Tensor], torch.dtype]:
    """The network inside its deploying or compiling wrappers, and its computing dtype."""
    while True:
        if isinstance(network, Deployed):
            dtype = network.dtype
            network = network.network
        elif isinstance(network, nn.Module) and hasattr(network, "_orig_mod"):
            network = cast(nn.Module, network._orig_mod)
        else:
            return network, dtype
