"""Transparent pixels: the colours under them, and opaque images made of them."""

import cv2
import numpy as np

__all__ = ["fill_transparent", "on_white"]


def fill_transparent(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give fully transparent pixels the colour of the nearest pixel that can be seen.

    What lies under them is arbitrary, black or white in most files, and a network would draw
    it into the visible edges.

    Args:
        colour: (C, H, W).
        alpha: (H, W), 0 where a pixel is fully transparent.

    Returns:
        (C, H, W); the same array where all or nothing can be seen.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return colour
    # The transform looks for the nearest zero, and gives each zero a label.
    _, labels = cv2.distanceTransformWithLabels(
        (~visible).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    place = np.zeros(labels.max() + 1, np.intp)
    place[labels[visible]] = np.flatnonzero(visible)
    return colour.reshape(len(colour), -1)[:, place[labels]]


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Lay an image on white.

    Args:
        pixels: (H, W, 4) of uint8, alpha last and straight.

    Returns:
        (H, W, 3) of uint8, rounded.
    """
    alpha = pixels[..., 3:].astype(np.uint32)
    mixed = pixels[..., :3] * alpha + 255 * (255 - alpha)
    return ((2 * mixed + 255) // 510).astype(np.uint8)
