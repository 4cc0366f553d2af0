"""Bicubic resizing by the rule of MATLAB's ``imresize``, to the exact 8-bit value.

The LR images of the usual test and training sets were made by it.  Pillow and OpenCV
sample other positions or weights, and BasicSR's ``imresize`` keeps fractions between the
two passes, so none of them makes the same images.

Integers are rounded and clipped after each pass, as MATLAB does.  Two ways make the same
values.  :func:`resize_plainly` sums the taps of an output pixel in 64-bit floating point, one
after another.  :func:`shrink` takes uint8 to 1/2, 1/3, 1/4 or 1/8 by the kernel of PyTorch,
whose weights are 16-bit integers, or of Pillow, whose weights have 22 bits.  Both are exact
there: the weights of 1/2, 1/4 and 1/8 fit in 16 bits, and those of 1/3, multiples of 1/81, come
so close that no sum moves to the other side of a half.  They treat borders in another way, and
keep 8 bits between the passes only where each is asked for alone.  PyTorch's is several times
as fast, but importing PyTorch takes as long as Pillow takes for a thousand small photos, so it
is used where PyTorch is imported already.

Floating point is never rounded.  A pass is a product with a banded matrix, taken in blocks: so
it is fast, differentiable, and the same on every device.

Shapes: arrays are (H, W) or (H, W, C), tensors (..., H, W); s is the factor of shrinking.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["imresize"]

_AnyImage = TypeVar("_AnyImage", np.ndarray, "Tensor")
# Shrinks one side of the first image to that of the second, both (H, W, 3 or 4), uint8.
Kernel = Callable[[np.ndarray, np.ndarray], None]

_REACH = 2  # pixels on each side that the cubic kernel covers at scale 1
_A = -0.5
_FAST_FACTORS = (2, 3, 4, 8)
# Output pixels at each border whose kernel may reach beyond it.
_BORDER = 2
# Values of one band of the plain way, so few that they stay in the cache.
_BAND_VALUES = 2**16
# Output rows that one small matrix makes: enough for fast matrix products, and so few that
# most of its entries are not zero.
_ROWS_PER_MATRIX = 32


class Pass(NamedTuple):
    """How one dimension is resized.

    Attributes:
        size, out_size: numbers of input and output pixels.
        scale: what the kernel follows; out_size is ``size * scale``, rounded up.
    """

    size: int
    out_size: int
    scale: float


def imresize(
    image: _AnyImage, scale: float | None = None, size: tuple[int, int] | None = None
) -> _AnyImage:
    """Resize an image up or down.

    Shrinking averages over ``1 / scale`` times the kernel's reach (antialiasing).  Integers
    are rounded and clipped after each of the two passes, of which the dimension that shrinks
    more goes first, and the height where both shrink alike; floating point never is.

    Args:
        image: an array (H, W) or (H, W, C) of uint8, uint16 or floating point, or a tensor
            (..., H, W) of floating point, on any device; no side is empty.
        scale: output size over input size, such as 1 / 3.
        size: output (height, width), instead of a scale.

    Returns:
        (ceil(H * scale), ceil(W * scale)) or ``size``, with the type, dtype, device, and
        channels or leading dimensions of the input.  A tensor's result is differentiable.

    Raises:
        TypeError: for another dtype.
        ValueError: when the image has another number of dimensions or an empty side; for a
            scale or size that is not above 0; when both or neither are given.

    Source: documentation of MATLAB's imresize (bicubic, antialiasing).
    """
    if not isinstance(image, np.ndarray):
        if not image.is_floating_point():
            raise TypeError(f"expected a tensor of floating point; found {image.dtype}")
        if image.ndim < 2 or 0 in image.shape[-2:]:
            raise ValueError(f"expected a tensor (..., H, W); found {tuple(image.shape)}")
        return _resize_tensor(image, *_passes(image.shape[-2:], scale, size))
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"expected an image of (H, W) or (H, W, C); found {image.shape}")
    height, width = _passes(image.shape[:2], scale, size)
    if image.dtype in (np.uint8, np.uint16):
        return _resize_integer(image, height, width)
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"expected uint8, uint16 or floating point; found {image.dtype}")
    import torch

    channels_first = np.moveaxis(np.atleast_3d(image), -1, 0)
    resized = _resize_tensor(torch.tensor(channels_first), height, width).numpy()
    return np.ascontiguousarray(np.moveaxis(resized, 0, -1)).reshape(
        (height.out_size, width.out_size, *image.shape[2:])
    )


def _passes(
    shape: tuple[int, ...], scale: float | None, size: tuple[int, int] | None
) -> list[Pass]:
    """The passes over the height and over the width."""
    if size is not None and scale is None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"expected a size (height, width) of at least 1; found {size}")
        return [Pass(n, count, count / n) for n, count in zip(shape, size, strict=True)]
    if scale is None or size is not None:
        raise ValueError(f"expected either a scale or a size; found {scale} and {size}")
    if not 0 < scale < math.inf:
        raise ValueError(f"expected a scale above 0; found {scale}")
    return [Pass(n, math.ceil(n * scale), scale) for n in shape]


@lru_cache(maxsize=32)
def taps(line: Pass) -> tuple[np.ndarray, np.ndarray]:
    """Which input pixels a pass averages for every output pixel, and by which weights.

    Shrinking stretches the kernel by ``1 / scale`` (antialiasing).  Beyond its borders the
    input goes on mirrored, with the border pixel doubled.

    Returns:
        Indices and weights, each (out_size, taps); each row of weights adds up to 1.

    Source: documentation of MATLAB's imresize; R. Keys, "Cubic convolution interpolation
    for digital image processing", 1981, with a = -0.5.
    """
    stretch = max(1.0, 1 / line.scale)
    # Pixel i covers [i, i + 1], so its centre lies at i + 0.5 on both grids.
    centre = (np.arange(line.out_size) + 0.5) / line.scale - 0.5
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


def _resize_tensor(image: Tensor, height: Pass, width: Pass) -> Tensor:
    """Resize (..., H, W) of floating point."""
    import torch

    # Weights of half precision would shift the image's mean.
    dtype = torch.promote_types(image.dtype, torch.float32)

    def resize_rows(pixels: Tensor, line: Pass) -> Tensor:
        rows = [
            torch.as_tensor(matrix, dtype=dtype, device=image.device) @ pixels[..., low:high, :]
            for low, high, matrix in _matrices(line)
        ]
        return torch.cat(rows, dim=-2)

    rows = resize_rows(image.to(dtype), height)
    return resize_rows(rows.mT, width).mT.contiguous().to(image.dtype)


@lru_cache(maxsize=32)
def _matrices(line: Pass) -> list[tuple[int, int, np.ndarray]]:
    """The banded matrix of a pass, cut into blocks.

    Returns:
        Blocks (low, high, matrix): the matrix (rows, high - low) makes the next output rows
        from the input rows low to high.
    """
    indices, weights = taps(line)
    blocks = []
    for start in range(0, line.out_size, _ROWS_PER_MATRIX):
        columns = indices[start : start + _ROWS_PER_MATRIX]
        low, high = int(columns.min()), int(columns.max()) + 1
        matrix = np.zeros((len(columns), high - low))
        # Mirrored taps fall on pixels that have a weight already.
        rows = np.arange(len(columns))[:, None]
        np.add.at(matrix, (rows, columns - low), weights[start : start + _ROWS_PER_MATRIX])
        blocks.append((low, high, matrix))
    return blocks


def _resize_integer(image: np.ndarray, height: Pass, width: Pass) -> np.ndarray:
    if width.scale < height.scale:
        # The dimension that shrinks more goes first.
        return _swapped(_resize_integer(_swapped(image), width, height))
    s = _fast_factor(height)
    if s and s == _fast_factor(width) and image.dtype == np.uint8:
        kernel = by_pytorch if "torch" in sys.modules else by_pillow
        if is_exact(kernel, s):
            return shrink(kernel, np.ascontiguousarray(image), s)
    return resize_plainly(image, height, width)


def _swapped(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.swapaxes(0, 1))


def resize_plainly(image: np.ndarray, height: Pass, width: Pass) -> np.ndarray:
    """Resize integers by summing taps; the height first."""
    rows = _resize_rows(image, height)
    return _swapped(_resize_rows(_swapped(rows), width))


def _resize_rows(image: np.ndarray, line: Pass) -> np.ndarray:
    """Resize the first dimension by the plain way."""
    indices, weights = taps(line)
    flat = image.reshape(len(image), -1)
    out = np.empty((line.out_size, flat.shape[1]), image.dtype)
    step = max(1, _BAND_VALUES // flat.shape[1])
    for start in range(0, line.out_size, step):
        band = slice(start, start + step)
        total = np.zeros(out[band].shape)
        # One tap after another: the order of a sum decides about values that end in one half.
        for index, weight in zip(indices[band].T, weights[band].T, strict=True):
            total += weight[:, None] * flat[index]
        out[band] = np.clip(np.floor(total + 0.5), 0, np.iinfo(image.dtype).max)
    return out.reshape(line.out_size, *image.shape[1:])


def _fast_factor(line: Pass) -> int | None:
    """The s for which a pass shrinks to just 1 / s and has a middle, or None."""
    s = round(1 / line.scale)
    fits = line.out_size * s == line.size and line.out_size > 2 * _BORDER
    return s if s in _FAST_FACTORS and fits and abs(line.scale * s - 1) < 1e-12 else None


@lru_cache(maxsize=2 * len(_FAST_FACTORS))
def is_exact(kernel: Kernel, s: int) -> bool:
    """Whether the installed kernel makes the values of the plain way, by a trial.

    What makes it exact is a choice inside of PyTorch or Pillow, which another release may change.
    """
    trial = np.random.default_rng(0).choice([0, 1, 127, 254, 255], (24 * s, 24 * s, 3))
    trial = trial.astype(np.uint8)
    line = Pass(24 * s, 24, 1 / s)
    return np.array_equal(shrink(kernel, trial, s), resize_plainly(trial, line, line))


def shrink(kernel: Kernel, image: np.ndarray, s: int) -> np.ndarray:
    """Shrink uint8 by a kernel; both sides are multiples of s, the image is contiguous."""
    rows = _shrink_rows(kernel, image, s)
    if image.shape[2:] in ((3,), (4,)):
        return _shrink_along(kernel, 1, rows, s)
    return _swapped(_shrink_rows(kernel, _swapped(rows), s))


def _shrink_rows(kernel: Kernel, image: np.ndarray, s: int) -> np.ndarray:
    """Shrink the first dimension, whatever the others are."""
    flat = image.reshape(len(image), -1)
    n = flat.shape[1]
    # The kernels are fast for pixels of three or four values.
    channels = next((c for c in (4, 3) if n % c == 0), None)
    if channels is None:
        return _shrink_rows(kernel, np.pad(flat, ((0, 0), (0, -n % 4))), s)[:, :n].reshape(
            len(image) // s, *image.shape[1:]
        )
    out = _shrink_along(kernel, 0, flat.reshape(len(image), -1, channels), s)
    return out.reshape(len(out), *image.shape[1:])


def _shrink_along(kernel: Kernel, axis: int, image: np.ndarray, s: int) -> np.ndarray:
    """Shrink one side of (H, W, 3 or 4)."""
    out = _run(kernel, axis, image, s)
    # The kernels have no mirrored border.  Both ends, gone on beyond it, side by side in one
    # strip: what is needed of each is far enough from where they meet.
    side, ends = np.moveaxis(image, axis, 0), np.moveaxis(out, axis, 0)
    reach = _BORDER * s
    strip = [side[:reach][::-1], side[: 2 * reach], side[-2 * reach :], side[-reach:][::-1]]
    border = _run(kernel, axis, np.moveaxis(np.concatenate(strip), 0, axis), s)
    border = np.moveaxis(border, axis, 0)
    ends[:_BORDER] = border[_BORDER : 2 * _BORDER]
    ends[-_BORDER:] = border[-2 * _BORDER : -_BORDER]
    return out


def _run(kernel: Kernel, axis: int, image: np.ndarray, s: int) -> np.ndarray:
    shape = list(image.shape)
    shape[axis] //= s
    out = np.empty(shape, np.uint8)
    kernel(np.ascontiguousarray(image), out)
    return out


def by_pytorch(image: np.ndarray, out: np.ndarray) -> None:
    """PyTorch's antialiased bicubic shrinking of one side of (H, W, 3 or 4)."""
    import torch

    source, target = (torch.from_numpy(a).permute(2, 0, 1)[None] for a in (image, out))
    # What torch.nn.functional.interpolate calls, which has no `out` and spends longer on
    # memory for its result than on arithmetic.
    torch.ops.aten._upsample_bicubic2d_aa.out(
        source, list(out.shape[:2]), False, None, None, out=target
    )


def by_pillow(image: np.ndarray, out: np.ndarray) -> None:
    """Pillow's, likewise."""
    size = (out.shape[1], out.shape[0])
    # RGBX, as Pillow weighs the colours of RGBA by its transparency.
    mode = "RGB" if image.shape[2] == 3 else "RGBX"
    pixels = Image.frombuffer(mode, image.shape[1::-1], image, "raw", mode, 0, 1)
    out[:] = np.asarray(pixels.resize(size, Image.Resampling.BICUBIC))
