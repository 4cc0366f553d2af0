"""PSNR of luma as networks of any scale publish it."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esc_arch.errors import UserError
from esc_arch.plugin.registration import register_metric

__all__ = ["calculate_psnr_lte", "shave_of"]

# Of red, green and blue, over 256: luma from 0 to 219 of colours from 0 to 255.
_WEIGHTS = np.array([65.738, 129.057, 25.064]) / 256


def shave_of(scale: float) -> int:
    """Pixels left out at each border; of a scale between two whole numbers those of the larger."""
    return math.ceil(scale) if scale > 1 else 0


@register_metric
def calculate_psnr_lte(
    img: NDArray[Any], img2: NDArray[Any], scale: float, better: str = "higher"
) -> float:
    """PSNR in dB of the luma, without the pixels at the border: as many as the scale.

    Args:
        img, img2: (H, W, 3), BGR, in [0, 255]; not rounded, as ESCLTEModel gives them, it is the
            published number.
        scale: that of the image; ESCLTEModel gives it.
        better: read by BasicSR's validation.

    Raises:
        UserError: when the border leaves nothing.

    Source: LIIF and LTE, ``calc_psnr`` of their public code with ``eval_type: benchmark-N``.
    """
    shave = shave_of(scale)
    height, width = img.shape[:2]
    if min(height, width) <= 2 * shave:
        raise UserError(
            f"calculate_psnr_lte: expected sides of more than {2 * shave} pixels at scale "
            f"{scale:g}; found {width}x{height}. Remove the image."
        )
    difference = (img.astype(np.float64) - img2.astype(np.float64)) / 255
    luma = difference[shave : height - shave, shave : width - shave] @ _WEIGHTS[::-1]
    error = float(np.mean(luma**2))
    return math.inf if error == 0 else -10 * math.log10(error)
