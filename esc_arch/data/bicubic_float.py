"""Bicubic resizing of floating point: nothing is rounded.

A pass is a product with a banded matrix, taken in blocks: so it is fast, differentiable, and
the same on every device.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from esc_arch.data.cubic_taps import Pass, taps

__all__ = ["resize_tensor"]

# Output rows that one small matrix makes: enough for fast matrix products, and so few that
# most of its entries are not zero.
_ROWS_PER_MATRIX = 32


def resize_tensor(image: Tensor, height: Pass, width: Pass) -> Tensor:
    """Resize (..., H, W) of floating point.

    Source: documentation of MATLAB's imresize.
    """
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
