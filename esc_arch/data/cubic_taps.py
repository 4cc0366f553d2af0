"""Which input pixels a bicubic pass averages, and by which weights (the rule of MATLAB)."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_REACH = 2  # pixels on each side that the cubic kernel covers at scale 1
_A = -0.5


class Pass(NamedTuple):
    """How one dimension is resized.

    Attributes:
        size, count: numbers of input and output pixels.
        scale: what the kernel follows; count is ``size * scale``, rounded up.
    """

    size: int
    count: int
    scale: float


def passes(
    shape: tuple[int, int], scale: float | None, size: tuple[int, int] | None
) -> tuple[Pass, Pass]:
    """The passes over the height and over the width.

    Raises:
        ValueError: for a scale or size that is not above 0, or when not just one is given.
    """
    if (scale is None) == (size is None):
        raise ValueError(f"expected either a scale or a size; found {scale} and {size}")
    if size is not None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"expected a size (height, width) of at least 1; found {size}")
        height, width = (Pass(n, c, c / n) for n, c in zip(shape, size, strict=True))
    else:
        if not 0 < scale < math.inf:
            raise ValueError(f"expected a scale above 0; found {scale}")
        height, width = (Pass(n, math.ceil(n * scale), scale) for n in shape)
    return height, width


@lru_cache(maxsize=32)
def taps(line: Pass) -> tuple[np.ndarray, np.ndarray]:
    """The taps of every output pixel.

    Shrinking stretches the kernel by ``1 / scale`` (antialiasing).  Beyond its borders the
    input goes on mirrored, with the border pixel doubled.

    Returns:
        Indices and weights, each (count, taps); each row of weights adds up to 1.

    Source: documentation of MATLAB's imresize; R. Keys, "Cubic convolution interpolation
    for digital image processing", 1981, with a = -0.5.
    """
    stretch = max(1.0, 1 / line.scale)
    # Pixel i covers [i, i + 1], so its centre lies at i + 0.5 on both grids.
    centre = (np.arange(line.count) + 0.5) / line.scale - 0.5
    reach = _REACH * stretch
    first = np.floor(centre - reach).astype(np.int64)
    indices = first[:, None] + np.arange(math.ceil(2 * reach) + 2)
    weights = _cubic((centre[:, None] - indices) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    # Mirrored: ..., 1, 0, 0, 1, ..., n-1, n-1, n-2, ...
    phase = indices % (2 * line.size)
    return np.minimum(phase, 2 * line.size - 1 - phase), weights


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * x * _A - 4 * _A
    return np.where(x <= 1, near, np.where(x <= _REACH, far, 0.0))
