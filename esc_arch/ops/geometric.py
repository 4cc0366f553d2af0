"""Averaging a convolution kernel over the symmetries of the square."""

import torch
from torch import Tensor


def geometric_mean_kernel(kernel: Tensor) -> Tensor:
    """The mean of a kernel over the eight flips and quarter turns of the square.

    The result is its own mean again, so a folded kernel may be folded once more.

    Args:
        kernel: (..., k, k).

    Returns:
        (..., k, k), symmetric under every flip and turn.

    Source: ESC, arXiv 2503.06671; the filter shared by all ConvAttn modules.
    """
    kernel = kernel + kernel.flip(-2)
    kernel = kernel + kernel.flip(-1)
    return (kernel + kernel.transpose(-2, -1)) / 8


def is_symmetric(kernel: Tensor) -> bool:
    """Whether a kernel is the same, to the bit, under every flip and turn of the square.

    Args:
        kernel: (..., k, k).
    """
    flipped, turned = kernel.flip(-1), kernel.transpose(-2, -1)
    return torch.equal(kernel, turned) and torch.equal(kernel, flipped)
