"""Rectangles of an image, and cutting an image into them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from esc_arch.ops.margins import Margins

__all__ = ["Region", "cut", "tiles"]


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
        """What an image of this height and width has of it."""
        height, width = size
        return Region(self.top, min(self.bottom, height), self.left, min(self.right, width))

    def of(self, x: Tensor) -> Tensor:
        """This region of a map (B, C, H, W), a view."""
        return x[:, :, self.top : self.bottom, self.left : self.right]

    def margins(self, outer: Region) -> Margins:
        """What a region that holds this one has around it."""
        return Margins(
            self.top - outer.top,
            outer.bottom - self.bottom,
            self.left - outer.left,
            outer.right - self.right,
        )

    def inside(self, outer: Region) -> Region:
        """The same region, counted from the first pixel of one that holds it."""
        return Region(
            self.top - outer.top,
            self.bottom - outer.top,
            self.left - outer.left,
            self.right - outer.left,
        )


def cut(size: int, side: int, multiple: int) -> list[tuple[int, int]]:
    """Cut a side of an image at multiples of ``multiple``.

    What is left at the end and is no whole multiple stays with the part before it, into which
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
