"""The memory format of a result."""

import torch
from torch import Tensor


def like_input(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the memory format of ``x``, as PyTorch's own layers hand it on.

    Args:
        y, x: (B, C, H, W), sizes may differ.

    Returns:
        ``y``, channels_last when ``x`` is, contiguous otherwise.
    """
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
