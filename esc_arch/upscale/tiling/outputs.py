"""Outputs: receivers of the finished parts of a result."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from esc_arch.fast.maps import Region

__all__ = ["ArrayOutput", "Output", "TensorOutput"]


class Output(Protocol):
    """Takes finished parts of the result, in any order, each pixel at least once.

    After a first attempt that ran out of memory, parts come again with the same pixels.
    """

    def __call__(self, region: Region, part: Tensor) -> None:
        """``part`` (1, C, height, width) of the result, at ``region``."""


class ArrayOutput:
    """Rounds the result to integers, so that it is never held in floating point.

    Args:
        array: (rH, rW, C) or, of one channel, (rH, rW); uint8 or uint16; takes the result,
            from 0 for 0 to the largest integer for 1.
        is_grey: whether the array takes the mean of the result's channels, in each of its own.

    Attributes:
        is_finite: whether all values so far were finite numbers.

    Raises:
        ValueError: for an array of another type.
    """

    def __init__(self, array: np.ndarray, is_grey: bool = False) -> None:
        if array.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"an array of {array.dtype} is neither of uint8 nor of uint16")
        self.array = array if array.ndim == 3 else array[:, :, None]
        self.is_finite = True
        self._is_grey = is_grey
        self._white = np.iinfo(array.dtype).max

    def __call__(self, region: Region, part: Tensor) -> None:
        self.is_finite &= bool(torch.isfinite(part.sum()))
        part = part[0].permute(1, 2, 0).to(torch.float32, copy=True)
        if self._is_grey:
            part = part.mean(-1, keepdim=True)
        # Not a number becomes black, as no integer is one.
        part = part.nan_to_num_(0).clamp_(0, 1).mul_(self._white).round_()
        rows, columns = slice(region.top, region.bottom), slice(region.left, region.right)
        self.array[rows, columns] = part.cpu().numpy()


class TensorOutput:
    """Puts the result together in a tensor.

    Args:
        shape: (1, C, rH, rW).
        device: of the tensor, which has the type of the first part.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._shape, self._device = shape, device
        self.result: Tensor | None = None

    def __call__(self, region: Region, part: Tensor) -> None:
        if self.result is None:
            shape = (1, part.shape[1], *self._shape[2:])
            self.result = torch.empty(shape, dtype=part.dtype, device=self._device)
        region.of(self.result).copy_(part)
