"""Pixels around a part of a map that are looked at only."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["NO_MARGINS", "Margins"]


class Margins(NamedTuple):
    """How many rows and columns of a map lie around the part for which a result is wanted.

    An image that goes by tiles has them where the tile does not end with the image.
    """

    top: int
    bottom: int
    left: int
    right: int

    def inner(self, x: Tensor) -> Tensor:
        """(..., H, W) without its margins, a view."""
        height, width = x.shape[-2:]
        return x[..., self.top : height - self.bottom, self.left : width - self.right]


NO_MARGINS = Margins(0, 0, 0, 0)
