"""Bicubic resizing by the rule of MATLAB's ``imresize``, to the exact 8-bit value.

The LR images of the usual test and training sets were made by it.  Pillow and OpenCV
sample other positions or weights, and BasicSR's ``imresize`` keeps fractions between the
two passes, so none of them makes the same images.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from esc_arch.data.bicubic_integer import resize_integer
from esc_arch.data.cubic_taps import passes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["imresize"]

Image = TypeVar("Image", np.ndarray, "Tensor")


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
    if _is_tensor(image):
        if not image.is_floating_point():
            raise TypeError(f"expected a tensor of floating point; found {image.dtype}")
        if image.ndim < 2 or 0 in image.shape[-2:]:
            raise ValueError(f"expected a tensor (..., H, W); found {tuple(image.shape)}")
        from esc_arch.data.bicubic_float import resize_tensor

        return resize_tensor(image, *passes(image.shape[-2:], scale, size))
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"expected an image of (H, W) or (H, W, C); found {image.shape}")
    height, width = passes(image.shape[:2], scale, size)
    if image.dtype in (np.uint8, np.uint16):
        return resize_integer(image, height, width)
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"expected uint8, uint16 or floating point; found {image.dtype}")
    import torch

    from esc_arch.data.bicubic_float import resize_tensor

    channels_first = np.moveaxis(np.atleast_3d(image), -1, 0)
    resized = resize_tensor(torch.tensor(channels_first), height, width).numpy()
    return np.ascontiguousarray(np.moveaxis(resized, 0, -1)).reshape(
        (height.count, width.count, *image.shape[2:])
    )


def _is_tensor(image: object) -> bool:
    # Importing PyTorch takes longer than shrinking hundreds of photos, which needs none of it.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)
