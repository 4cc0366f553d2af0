"""Sub-images: windows of a large image that are files of their own, for faster reading.

Sizes and positions are in pixels of the HR image.  All are multiples of every scale, so that
each HR window has just its pixels in the LR images.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from esc_arch.errors import UserError

__all__ = ["Grid", "Window", "grid", "sub_image_name", "windows"]


class Grid(NamedTuple):
    """Positions of windows.

    Attributes:
        size: side of a window.
        step: from one window to the next.
        thresh: most pixels that may be left out at the right and bottom.
        multiple: of all positions and sides.
    """

    size: int
    step: int
    thresh: int
    multiple: int


class Window(NamedTuple):
    """A rectangle of an HR image."""

    top: int
    left: int
    height: int
    width: int

    def cut(
        self, image: NDArray[np.uint8 | np.uint16], scale: int
    ) -> NDArray[np.uint8 | np.uint16]:
        """This window of an image that is ``scale`` times smaller than HR, as a copy.

        Args:
            image: (H, W) or (H, W, C).
            scale: 1 for the HR image itself.
        """
        top, left, height, width = (side // scale for side in self)
        return np.ascontiguousarray(image[top : top + height, left : left + width])


def grid(size: int, step: int | None, thresh: int, scales: Sequence[int]) -> Grid:
    """A checked grid.

    Args:
        size, step, thresh: see :class:`Grid`; without a step windows overlap by half.
        scales: of the LR images.

    Raises:
        UserError: when the size or the step is no multiple of all scales, or out of range.
    """
    multiple = math.lcm(*scales)
    of_scales = f"all scales ({', '.join(map(str, scales))})" if scales else "1"
    for name, value in (("--sub-image", size), ("--step", size // 2 if step is None else step)):
        if value < 1 or value % multiple:
            default = " (half of --sub-image)" if name == "--step" and step is None else ""
            lower = value // multiple * multiple
            near = [str(v) for v in (lower, lower + multiple) if v > 0]
            raise UserError(
                f"{name}: expected a multiple of {of_scales}, that is of {multiple}, so that HR "
                f"and LR pixels meet; found {value}{default}. Use {name} {' or '.join(near)}."
            )
    if thresh < 0:
        raise UserError(f"--thresh: expected 0 or more pixels; found {thresh}.")
    return Grid(size, size // 2 if step is None else step, thresh, multiple)


def windows(height: int, width: int, grid: Grid) -> list[Window]:
    """The windows of an image, row by row.

    A window is as short as a short side, rounded down to a multiple.

    Args:
        height, width: of the HR image; no side is shorter than ``grid.multiple``.

    Source: BasicSR, scripts/data_preparation/extract_subimages.py, whose positions these are
    for images whose sides are multiples.
    """
    rows, columns = _starts(height, grid), _starts(width, grid)
    sides = _side(height, grid), _side(width, grid)
    return [Window(top, left, *sides) for top in rows for left in columns]


def _side(length: int, grid: Grid) -> int:
    return min(grid.size, length // grid.multiple * grid.multiple)


def _starts(length: int, grid: Grid) -> list[int]:
    room = length - _side(length, grid)
    starts = list(range(0, room + 1, grid.step))
    # One more at the far edge, or just before it where the edge is between multiples.
    last = room // grid.multiple * grid.multiple
    if room - starts[-1] > grid.thresh and last > starts[-1]:
        starts.append(last)
    return starts


def sub_image_name(name: str, index: int) -> str:
    """The name of an image's window, without extension; BasicSR counts from 1."""
    return f"{name}_s{index:03d}"
