"""Colours under transparent pixels."""

import cv2
import numpy as np

__all__ = ["fill_transparent"]


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
