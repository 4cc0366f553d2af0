"""Feature maps of a whole image, and the regions of them that are worked on at one time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["FeatureMap", "Region", "TensorMap", "cut", "tiles"]


@dataclass(frozen=True)
class Region:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, ends excluded, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def grown(self, halo: int, size: tuple[int, int]) -> Region:
        """With ``halo`` more pixels on each side, as far as an image of this height and width
        has them: where the image ends, so does the region.
        """
        return Region(
            max(self.top - halo, 0),
            min(self.bottom + halo, size[0]),
            max(self.left - halo, 0),
            min(self.right + halo, size[1]),
        )

    def moved(self, down: int, right: int) -> Region:
        """The same size, so many pixels lower and further right."""
        return Region(self.top + down, self.bottom + down, self.left + right, self.right + right)

    def scaled(self, scale: int) -> Region:
        """The same part of an image of ``scale`` times the size."""
        return Region(*(scale * side for side in (self.top, self.bottom, self.left, self.right)))

    def clipped(self, size: tuple[int, int]) -> Region:
        """The part of it inside an image of this height and width."""
        height, width = size
        return Region(self.top, min(self.bottom, height), self.left, min(self.right, width))

    def of(self, x: Tensor) -> Tensor:
        """This region of a map (B, C, H, W), a view."""
        return x[:, :, self.top : self.bottom, self.left : self.right]

    def inside(self, outer: Region) -> Region:
        """The same region, counted from the first pixel of one that holds it."""
        return self.moved(-outer.top, -outer.left)

    def bands(self, rows: int) -> list[Region]:
        """This region in bands of so many of its rows, the last one lower."""
        return [
            Region(top, min(top + rows, self.bottom), self.left, self.right)
            for top in range(self.top, self.bottom, rows)
        ]


def cut(size: int, side: int, multiple: int) -> list[tuple[int, int]]:
    """Cut a side of an image at multiples of ``multiple``.

    A remainder at the end, less than a multiple, stays with the part before it, into which
    its reflection reaches.

    Args:
        size: pixels to cut.
        side: of a part in pixels, at most, if at least ``multiple``.
        multiple: pixels, such as the side of the attention's windows.

    Returns:
        Starts and ends.
    """
    whole = max(size // multiple, 1)
    count = -(-whole // max(side // multiple, 1))
    # Parts of much the same size: memory is bounded by the largest.
    starts = [i * whole // count * multiple for i in range(count)]
    return list(zip(starts, [*starts[1:], size], strict=True))


def tiles(size: tuple[int, int], side: tuple[int, int], multiple: int) -> list[Region]:
    """Cut an image into tiles, row by row; see :func:`cut`."""
    rows, columns = (cut(*sides, multiple) for sides in zip(size, side, strict=True))
    return [Region(*row, *column) for row in rows for column in columns]


class FeatureMap(Protocol):
    """A map (B, C, H, W) of which regions are read and written.

    Regions come as channels_last tensors on the device that computes.
    """

    size: tuple[int, int]  # H and W

    def view(self, region: Region) -> Tensor:
        """A region to read.  It may be written to if it is then handed to :meth:`write`."""

    def space(self, region: Region) -> Tensor:
        """Memory for the new content of a region, which is then handed to :meth:`write`."""

    def write(self, region: Region, x: Tensor) -> None:
        """Set a region to a tensor of its size."""

    def close(self) -> None:
        """Give the memory back."""


class TensorMap:
    """A map that is one tensor in memory.

    Args:
        x: (B, C, H, W); views of it are handed out where it lies on ``device``.
        device: where the regions are wanted.
    """

    def __init__(self, x: Tensor, device: torch.device) -> None:
        self.tensor = x
        self.size = (x.shape[2], x.shape[3])
        self._device = device

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> TensorMap:
        """Memory for a channels_last map on a CPU."""
        x = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
        return cls(x, device)

    def view(self, region: Region) -> Tensor:
        return region.of(self.tensor).to(self._device)

    def space(self, region: Region) -> Tensor:
        if self.tensor.device == self._device:
            return region.of(self.tensor)
        shape = (*self.tensor.shape[:2], region.height, region.width)
        return torch.empty(
            shape,
            dtype=self.tensor.dtype,
            device=self._device,
            memory_format=torch.channels_last,
        )

    def write(self, region: Region, x: Tensor) -> None:
        place = region.of(self.tensor)
        if x.data_ptr() != place.data_ptr():  # else it was made there
            place.copy_(x)

    def close(self) -> None:
        self.tensor = torch.empty(0)
