"""Image files: which there are, their pixels, and PNG encoding.

Shapes: images are (H, W) for grey, (H, W, 3) for BGR and (H, W, 4) for BGRA, the order of
OpenCV and BasicSR; uint8 or uint16.
"""

import io
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from esc_arch.errors import UserError

__all__ = [
    "PNG_OPTIONS",
    "SUFFIXES",
    "Decoded",
    "decode",
    "decode_opened",
    "encode_png",
    "find_images",
    "read_image",
]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_EXPECTED = "an image of 8 or 16 bits, grey, RGB or RGBA (PNG, JPEG, BMP, TIFF, WebP)"

# A tenth faster than OpenCV's default, and smaller.  Older releases lack the filters.
PNG_OPTIONS = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    PNG_OPTIONS += (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG)

_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
_PNG_BIT_DEPTH = 24  # offset in the file

# Pillow modes that OpenCV's order of channels can hold, and what they become first.
_AS_MODE = {
    **{mode: mode for mode in ("L", "RGB", "RGBA", "I;16", "I;16B")},
    **{"1": "L", "P": "RGB", "LA": "RGBA", "La": "RGBA", "PA": "RGBA"},
}


class Decoded(NamedTuple):
    """Pixels of an image file.

    Attributes:
        image: as the head of this file says.
        is_stored_so: whether the file is a PNG of just these pixels, so that a copy of its
            bytes is as good as encoding them again.
    """

    image: np.ndarray
    is_stored_so: bool


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files below a folder, by their extension, sorted; hidden ones are left out.

    Raises:
        UserError: when the folder is not there or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of images; found no folder.")
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        found += [
            Path(root, name)
            for name in files
            if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    if not found:
        raise UserError(
            f"{folder}: expected images ({', '.join(sorted(SUFFIXES))}); found none. "
            "Put the images there, or name another folder."
        )
    return sorted(found)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The pixels of an image file, upright; see :func:`decode`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: expected {_EXPECTED}; found: {error.strerror}.") from None
    return decode(content, path).image


def decode(content: bytes, name: str | os.PathLike[str]) -> Decoded:
    """Decode an image file, turned as its EXIF orientation says.

    Palettes become RGB, grey with transparency becomes RGBA, one bit becomes eight.

    Args:
        content: the whole file.
        name: what error messages call it.

    Raises:
        UserError: when it is no image, damaged or cut off, holds several images, or has
            another kind of pixels (CMYK, floating point, ...).
    """
    return decode_opened(content, name)[0]


def decode_opened(content: bytes, name: str | os.PathLike[str]) -> tuple[Decoded, Image.Image]:
    """Decode as :func:`decode` does, and give Pillow's image too, for its metadata."""
    if not content:
        raise UserError(f"{name}: expected {_EXPECTED}; found an empty file. {_AGAIN}")
    try:
        with warnings.catch_warnings():
            # Of large images and odd metadata; what matters raises.
            warnings.simplefilter("ignore")
            return _decode(content, name)
    except UnidentifiedImageError:
        raise UserError(f"{name}: expected {_EXPECTED}; found no such image. {_AGAIN}") from None
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{name}: expected at most {2 * Image.MAX_IMAGE_PIXELS:,} pixels; found: {error} "
            "Cut the image into pieces."
        ) from None
    except UserError:
        raise
    except Exception as error:  # the decoders raise anything for a garbled file
        raise UserError(
            f"{name}: expected {_EXPECTED}; found a damaged one ({_reason(error)}). {_AGAIN}"
        ) from None


_AGAIN = "Copy or make it again."


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _decode(content: bytes, name: str | os.PathLike[str]) -> tuple[Decoded, Image.Image]:
    opened = Image.open(io.BytesIO(content), formats=_FORMATS)
    file_format = opened.format
    # Photos of some phones are MPO: a JPEG with a second picture for the device's own use.
    if file_format != "MPO" and getattr(opened, "n_frames", 1) > 1:
        raise UserError(
            f"{name}: expected one image in a file; found {opened.n_frames} of them. "
            "Save each as a file of its own."
        )
    if file_format == "PNG":
        # Decoders overlook a changed byte; the checksums of the chunks do not.
        Image.open(io.BytesIO(content), formats=_FORMATS).verify()
    if _is_16_bit_colour(opened, content):
        # Pillow has no such mode.
        image, orientation = _by_opencv(content, name), _orientation(opened)
        if file_format == "TIFF":
            orientation = 1  # OpenCV has turned it
        converted = False
    else:
        image, converted = _by_pillow(opened, name)
        # Of the loaded image: Pillow turns a TIFF while it loads.
        orientation = _orientation(opened)
    turned = _upright(image, orientation)
    as_stored = file_format == "PNG" and not converted and orientation == 1
    return Decoded(np.ascontiguousarray(turned), as_stored), opened


def _is_16_bit_colour(opened: Image.Image, content: bytes) -> bool:
    if opened.mode.startswith("I;16"):
        return False
    if opened.format == "PNG":
        return content[_PNG_BIT_DEPTH] == 16
    if opened.format == "TIFF":
        return set(opened.tag_v2.get(_TIFF_BITS_PER_SAMPLE, ())) == {16}
    return False


def _by_opencv(content: bytes, name: str | os.PathLike[str]) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"{name}: expected {_EXPECTED}; found a damaged one. {_AGAIN}")
    if image.dtype != np.uint16 or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise UserError(f"{name}: expected {_EXPECTED}; found {image.dtype} {image.shape}.")
    return image


def _by_pillow(opened: Image.Image, name: str | os.PathLike[str]) -> tuple[np.ndarray, bool]:
    """The pixels, and whether they were converted to another mode."""
    opened.load()
    mode = _AS_MODE.get(opened.mode)
    if mode is None:
        raise UserError(
            f"{name}: expected {_EXPECTED}; found mode {opened.mode}. Convert it to RGB."
        )
    if "transparency" in opened.info:
        mode = "RGBA"
    converted = mode != opened.mode
    pixels = np.asarray(opened.convert(mode) if converted else opened)
    # Pillow's own conversion from the other byte order cuts values off at 255.
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if mode == "RGB":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    elif mode == "RGBA":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    return pixels, converted


def _orientation(opened: Image.Image) -> int:
    try:
        return opened.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # of any kind
        return 1  # damaged metadata beside good pixels


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image by EXIF's numbers; 1 and unknown ones leave it."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    # After the swap, what is left of each number is a mirroring of rows, columns or both.
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def encode_png(image: np.ndarray) -> bytes:
    """A PNG file of an image."""
    return cv2.imencode(".png", image, PNG_OPTIONS)[1].tobytes()
