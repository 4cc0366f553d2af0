"""Bicubic resizing by the rule of MATLAB's ``imresize``, to the exact 8-bit value.

The LR images of the usual test and training sets were made by it.  Pillow and OpenCV
sample other positions or weights, and BasicSR's ``imresize`` keeps fractions between the
two passes, so none of them makes the same images.
"""

from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from esc_arch.data.bicubic_integer import resize_integer
from esc_arch.data.cubic_taps import Pass, passes, taps

__all__ = ["imresize"]

Image = TypeVar("Image", np.ndarray, Tensor)

# Output rows that one small matrix makes: enough for fast matrix products, and so few that
# most of its entries are not zero.
_ROWS_PER_MATRIX = 32


def imresize(
    image: Image, scale: float | None = None, size: tuple[int, int] | None = None
) -> Image:
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
    if isinstance(image, Tensor):
        if not image.is_floating_point():
            raise TypeError(f"expected a tensor of floating point; found {image.dtype}")
        if image.ndim < 2 or 0 in image.shape[-2:]:
            raise ValueError(f"expected a tensor (..., H, W); found {tuple(image.shape)}")
        return _resize_tensor(image, *passes(image.shape[-2:], scale, size))
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"expected an image of (H, W) or (H, W, C); found {image.shape}")
    height, width = passes(image.shape[:2], scale, size)
    if image.dtype in (np.uint8, np.uint16):
        return resize_integer(image, height, width)
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"expected uint8, uint16 or floating point; found {image.dtype}")
    channels_first = np.moveaxis(np.atleast_3d(image), -1, 0)
    resized = _resize_tensor(torch.tensor(channels_first), height, width).numpy()
    return np.ascontiguousarray(np.moveaxis(resized, 0, -1)).reshape(
        (height.count, width.count, *image.shape[2:])
    )


def _resize_tensor(image: Tensor, height: Pass, width: Pass) -> Tensor:
    # Weights of half precision would shift the image's mean.
    dtype = torch.promote_types(image.dtype, torch.float32)
    rows = _resize_rows(image.to(dtype), height)
    return _resize_rows(rows.mT, width).mT.contiguous().to(image.dtype)


def _resize_rows(image: Tensor, line: Pass) -> Tensor:
    """Resize the last dimension but one by a product with one small matrix after another."""
    matrices = _matrices(line)
    rows = [
        torch.as_tensor(matrix, dtype=image.dtype, device=image.device) @ image[..., low:high, :]
        for low, high, matrix in matrices
    ]
    return torch.cat(rows, dim=-2)


@lru_cache(maxsize=32)
def _matrices(line: Pass) -> list[tuple[int, int, np.ndarray]]:
    """The banded matrix of a pass, cut into blocks.

    Returns:
        Blocks (low, high, matrix): the matrix (rows, high - low) makes the next output rows
        from the input rows low to high.
    """
    indices, weights = taps(line)
    blocks = []
    for start in range(0, line.count, _ROWS_PER_MATRIX):
        columns = indices[start : start + _ROWS_PER_MATRIX]
        low, high = int(columns.min()), int(columns.max()) + 1
        matrix = np.zeros((len(columns), high - low))
        # Mirrored taps fall on pixels that have a weight already.
        np.add.at(
            matrix,
            (np.arange(len(columns))[:, None], columns - low),
            weights[start : start + _ROWS_PER_MATRIX],
        )
        blocks.append((low, high, matrix))
    return blocks
