"""Bicubic downscaling by the rule of MATLAB's ``imresize``, to the exact 8-bit value.

The LR images of the usual test and training sets were made by it.  Pillow and OpenCV
sample other positions or weights, and BasicSR's ``imresize`` keeps fractions between the
two passes, so none of them makes the same images.
"""

import math

import numpy as np

_REACH = 2  # pixels on each side that the cubic kernel covers at scale 1
_A = -0.5


def imresize(image: np.ndarray, scale: float) -> np.ndarray:
    """Downscale an image.

    The height goes first, then the width; each pass averages over ``1 / scale`` times the
    kernel's reach, sees the image mirrored at its borders, and rounds to 8 bits.

    Args:
        image: (H, W) or (H, W, C), uint8; no side is empty.
        scale: output size over input size, above 0 and at most 1, such as 1 / 3.

    Returns:
        (ceil(H * scale), ceil(W * scale)) or the same with C, uint8.

    Raises:
        TypeError: when the image is not uint8.
        ValueError: when the image has another number of dimensions or an empty side, or
            for a scale out of range.

    Source: documentation of MATLAB's imresize (bicubic, antialiasing); R. Keys, "Cubic
    convolution interpolation for digital image processing", 1981, with a = -0.5.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"expected a uint8 image; found {image.dtype}")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"expected an image of (H, W) or (H, W, C); found {image.shape}")
    if not 0 < scale <= 1:
        raise ValueError(f"expected a scale above 0 and at most 1; found {scale}")
    rows = _resize_first(image, scale)
    return np.ascontiguousarray(_resize_first(rows.swapaxes(0, 1), scale).swapaxes(0, 1))


def _resize_first(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize the first dimension."""
    indices, weights = _taps(image.shape[0], scale)
    total = np.zeros((len(indices), *image.shape[1:]))
    shape = (-1,) + (1,) * (image.ndim - 1)
    # One tap after another: the order of a sum decides about values that end in one half.
    for index, weight in zip(indices.T, weights.T, strict=True):
        total += weight.reshape(shape) * image[index]
    return np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)


def _taps(size: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Which input pixels each output pixel averages, and by which weights.

    Args:
        size: number of input pixels.

    Returns:
        Two arrays (output pixels, taps); each row of weights adds up to 1.
    """
    # Pixel i covers [i, i + 1], so its centre lies at i + 0.5 on both grids.
    centre = (np.arange(math.ceil(size * scale)) + 0.5) / scale - 0.5
    reach = _REACH / scale
    first = np.floor(centre - reach).astype(np.int64)
    indices = first[:, None] + np.arange(math.ceil(2 * reach) + 2)
    weights = _cubic((centre[:, None] - indices) * scale)
    weights /= weights.sum(axis=1, keepdims=True)
    # Mirrored with the border pixel doubled: ..., 1, 0, 0, 1, ..., n-1, n-1, n-2, ...
    phase = indices % (2 * size)
    return np.minimum(phase, 2 * size - 1 - phase), weights


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * x * _A - 4 * _A
    return np.where(x <= 1, near, np.where(x <= _REACH, far, 0.0))
