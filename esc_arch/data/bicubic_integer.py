"""Bicubic resizing of integers: rounded and clipped after each pass, as MATLAB does.

Two ways make the same values.  The plain one sums the taps of an output pixel in 64-bit
floating point, one after another.  The fast one shrinks uint8 to 1/2, 1/3, 1/4 or 1/8 by
the kernel of PyTorch, whose weights are 16-bit integers, or of Pillow, whose weights have 22
bits.  Both are exact there: the weights of 1/2, 1/4 and 1/8 fit in 16 bits, and those of 1/3,
multiples of 1/81, come so close that no sum moves to the other side of a half.  They treat
borders in another way, and keep 8 bits between the passes only where each is asked for alone.

PyTorch's kernel is several times as fast, but importing PyTorch takes as long as Pillow takes
for a thousand small photos, so it is used where PyTorch is imported already.

Shapes: images are (H, W) or (H, W, C); s is the factor of shrinking.
"""

import sys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

from esc_arch.data.cubic_taps import Pass, taps

__all__ = ["resize_integer"]

_FAST_FACTORS = (2, 3, 4, 8)
# Shrinks one side of the first image to that of the second, both (H, W, 3 or 4), uint8.
Kernel = Callable[[np.ndarray, np.ndarray], None]
# Output pixels at each border whose kernel may reach beyond it.
_BORDER = 2
# Values of one band of the plain way, so few that they stay in the cache.
_BAND_VALUES = 2**16


def resize_integer(image: np.ndarray, height: Pass, width: Pass) -> np.ndarray:
    """Resize an image of uint8 or uint16.

    Returns:
        (height.count, width.count) or the same with C, in the input's dtype.

    Source: documentation of MATLAB's imresize.
    """
    if width.scale < height.scale:
        # The dimension that shrinks more goes first.
        return _swapped(resize_integer(_swapped(image), width, height))
    s = _fast_factor(height)
    if s and s == _fast_factor(width) and image.dtype == np.uint8:
        kernel = _pytorch if "torch" in sys.modules else _pillow
        if _is_exact(kernel, s):
            return _shrink(kernel, np.ascontiguousarray(image), s)
    return _resize_plainly(image, height, width)


def _swapped(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.swapaxes(0, 1))


def _resize_plainly(image: np.ndarray, height: Pass, width: Pass) -> np.ndarray:
    rows = _resize_rows(image, height)
    return _swapped(_resize_rows(_swapped(rows), width))


def _resize_rows(image: np.ndarray, line: Pass) -> np.ndarray:
    """Resize the first dimension by the plain way."""
    indices, weights = taps(line)
    flat = image.reshape(len(image), -1)
    out = np.empty((line.count, flat.shape[1]), image.dtype)
    step = max(1, _BAND_VALUES // flat.shape[1])
    for start in range(0, line.count, step):
        band = slice(start, start + step)
        total = np.zeros(out[band].shape)
        # One tap after another: the order of a sum decides about values that end in one half.
        for index, weight in zip(indices[band].T, weights[band].T, strict=True):
            total += weight[:, None] * flat[index]
        out[band] = np.clip(np.floor(total + 0.5), 0, np.iinfo(image.dtype).max)
    return out.reshape(line.count, *image.shape[1:])


def _fast_factor(line: Pass) -> int | None:
    """The s for which a pass shrinks to just 1 / s and has a middle, or None."""
    s = round(1 / line.scale)
    fits = line.count * s == line.size and line.count > 2 * _BORDER
    return s if s in _FAST_FACTORS and fits and abs(line.scale * s - 1) < 1e-12 else None


@lru_cache(maxsize=2 * len(_FAST_FACTORS))
def _is_exact(kernel: Kernel, s: int) -> bool:
    """Whether the installed kernel makes the values of the plain way, by a trial.

    What makes it exact is a choice inside of PyTorch or Pillow, which another release may change.
    """
    trial = np.random.default_rng(0).choice([0, 1, 127, 254, 255], (24 * s, 24 * s, 3))
    trial = trial.astype(np.uint8)
    line = Pass(24 * s, 24, 1 / s)
    return np.array_equal(_shrink(kernel, trial, s), _resize_plainly(trial, line, line))


def _shrink(kernel: Kernel, image: np.ndarray, s: int) -> np.ndarray:
    """The fast way; both sides are multiples of s."""
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


def _pytorch(image: np.ndarray, out: np.ndarray) -> None:
    """PyTorch's antialiased bicubic shrinking of one side of (H, W, 3 or 4)."""
    import torch

    source, target = (torch.from_numpy(a).permute(2, 0, 1)[None] for a in (image, out))
    # What torch.nn.functional.interpolate calls, which has no `out` and spends longer on
    # memory for its result than on arithmetic.
    torch.ops.aten._upsample_bicubic2d_aa.out(
        source, list(out.shape[:2]), False, None, None, out=target
    )


def _pillow(image: np.ndarray, out: np.ndarray) -> None:
    """Pillow's, likewise."""
    size = (out.shape[1], out.shape[0])
    # RGBX, as Pillow weighs the colours of RGBA by its transparency.
    mode = "RGB" if image.shape[2] == 3 else "RGBX"
    pixels = Image.frombuffer(mode, image.shape[1::-1], image, "raw", mode, 0, 1)
    out[:] = np.asarray(pixels.resize(size, Image.Resampling.BICUBIC))
