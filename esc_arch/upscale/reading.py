"""Reading an image file: its pixels, upright, and its metadata.

Shapes: pixels are (H, W) for grey, (H, W, 3) for RGB and (H, W, 4) for RGBA; uint8 or uint16.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from esc_arch.data.image_files import decode_opened
from esc_arch.errors import UserError
from esc_arch.upscale.metadata import Metadata, metadata_of

__all__ = ["Picture", "read_picture"]

_AS_RGB = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}


@dataclass(frozen=True)
class Picture:
    """An image in memory: pixels as the head of this file says, and metadata."""

    pixels: np.ndarray
    metadata: Metadata


def read_picture(path: Path) -> Picture:
    """Read an image file, turned as its orientation says.

    Palettes become RGB, grey with transparency becomes RGBA, one bit becomes eight.  The
    metadata are as in the file; :func:`esc_arch.upscale.writing.write_picture` makes them true
    of the written image.

    Raises:
        UserError: when it cannot be read, is no image, damaged or cut off, holds several
            images, or has another kind of pixels (CMYK, floating point, ...).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: expected an image file; found: {error.strerror or error}."
        ) from None
    decoded, opened = decode_opened(content, path)
    pixels = decoded.image
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, _AS_RGB[pixels.shape[2]])
    return Picture(pixels, metadata_of(opened, content))
