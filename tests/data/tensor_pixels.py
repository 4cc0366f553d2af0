"""The 8-bit pixels of a dataset's tensors."""

import numpy as np
import torch


def pixels(tensor: torch.Tensor) -> np.ndarray:
    """(H, W, C) uint8 of a tensor whose values are all n / 255."""
    array = tensor.numpy().transpose(1, 2, 0) * 255
    assert np.abs(array - array.round()).max() < 1e-4
    return array.round().astype(np.uint8)
