"""Decoding and encoding of image files, and their headers.

Shapes: images are (H, W) for grey, (H, W, 3) for BGR and (H, W, 4) for BGRA, the order of
OpenCV and BasicSR; uint8 or uint16.
"""

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from esc_arch.errors import UserError, first_line, listed
from esc_arch.files import open_regular, read_regular, special_kind

__all__ = [
    "BASICSR_SUFFIXES",
    "PNG_OPTIONS",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "Decoded",
    "Header",
    "ImageError",
    "Shape",
    "TooManyPixels",
    "decode",
    "decode_opened",
    "encode_png",
    "find_images",
    "left_out",
    "read_header",
    "read_image",
    "shape_of",
    "walk_images",
]

_JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"})
SUFFIXES = _JPEG_SUFFIXES | {".png", ".bmp", ".tif", ".tiff", ".webp"}
# Images too, which are not read: to be named when they are left out.
UNREAD_SUFFIXES = frozenset({
    ".gif", ".apng", ".heic", ".heif", ".hif", ".avif", ".avifs", ".jxl", ".jxr", ".jp2", ".j2k",
    ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm", ".hdr", ".exr", ".psd", ".psb",
    ".xcf", ".svg", ".ico", ".icns", ".cur", ".tga", ".dds", ".pcx", ".sgi", ".qoi", ".dib",
    # Raw data of cameras.
    ".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2",
    ".raf", ".pef", ".srw", ".x3f", ".3fr", ".erf", ".kdc", ".dcr", ".mrw", ".iiq",
})  # fmt: skip
# What BasicSR reads by OpenCV beside them.
BASICSR_SUFFIXES = SUFFIXES | {".jp2", ".pbm", ".pgm", ".ppm"}
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_EXPECTED = "an image of 8 or 16 bits, grey, RGB or RGBA (PNG, JPEG, BMP, TIFF, WebP)"
_AGAIN = "Copy or make it again."
_SHOWN = 10

# A tenth faster than OpenCV's default, and smaller.  Older releases lack the filters.
PNG_OPTIONS: tuple[int, ...] = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    PNG_OPTIONS += (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG)

_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS_PER_SAMPLE = 256, 257, 258
_PNG_BIT_DEPTH = 24  # offset in the file
# Where Pillow finds the orientation of a PNG without decoding it, or that there is one.
_PNG_ORIENTED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")

# Pillow modes that OpenCV's order of channels can hold, and what they become first.
_AS_MODE = {
    **{mode: mode for mode in ("L", "RGB", "RGBA", "I;16", "I;16B")},
    **{"1": "L", "P": "RGB", "LA": "RGBA", "La": "RGBA", "PA": "RGBA"},
}
_CHANNELS = {"L": 1, "I;16": 1, "I;16B": 1, "RGB": 3, "RGBA": 4}


class ImageError(UserError):
    """An image file that cannot be used.

    Attributes:
        found: what is wrong with it, for another message.
    """

    def __init__(self, text: str, found: str = "") -> None:
        super().__init__(text)
        self.found = found


class TooManyPixels(ImageError):
    """An image of more pixels than Pillow decodes, as it may be a decompression bomb."""


class Decoded(NamedTuple):
    """Pixels of an image file.

    Attributes:
        image: as the head of this file says.
        is_stored_so: whether the file is a PNG of just these pixels, so that a copy of its
            bytes is as good as encoding them again.
    """

    image: np.ndarray
    is_stored_so: bool


class Shape(NamedTuple):
    """Of an image as it is decoded, upright; channels are 1, 3 or 4."""

    height: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.channels} channels"


class Header(NamedTuple):
    """An image file by its header, not decoded.

    Attributes:
        format: as Pillow names it.
        shape: upright; 0 channels of pixels that :func:`decode` does not take.
    """

    format: str
    shape: Shape


def find_images(
    folder: str | os.PathLike[str], note: Callable[[str], object] | None = None
) -> list[Path]:
    """All image files below a folder, by their extension, sorted; hidden ones are left out.

    Args:
        note: takes a line on those of kinds that are not read.

    Raises:
        UserError: when the folder is not there or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        kind = special_kind(folder) or ("a file" if folder.exists() else "no folder")
        raise UserError(
            f"{folder}: expected a folder of images; found {kind}. Name a folder of images."
        )
    unread: list[Path] = []
    found = sorted(walk_images(folder, unread=unread.append))
    if not found:
        others = f": {left_out(unread)}" if unread else "."
        raise UserError(
            f"{folder}: expected images ({', '.join(sorted(SUFFIXES))}); found none{others} "
            "Put the images there, or name another folder."
        )
    if unread and note is not None:
        note(f"note: {folder}: {left_out(unread)}")
    return found


def left_out(unread: Sequence[Path]) -> str:
    """A sentence on image files of kinds that are not read: how many of each, and their names."""
    kinds = Counter(path.suffix.lower() for path in unread)
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    return (
        f"left out {counts}, which are not read ({listed(sorted(unread), _SHOWN)}). Convert them "
        "to PNG to use them."
    )


def walk_images(
    folder: Path,
    without: Path | None = None,
    onerror: Callable[[OSError], object] | None = None,
    unread: Callable[[Path], object] | None = None,
) -> Iterator[Path]:
    """Image files below a folder, by their extension, folder by folder; no hidden ones.

    Links to folders are followed, but for those that lead back up into a circle.

    Args:
        without: a folder below it whose images are left out.
        onerror: called for each folder that cannot be searched.
        unread: called for each image file of a kind that is not read.
    """
    left_out = None if without is None else without.resolve()
    for root, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        place = Path(root)
        is_left_out = place != folder and place.resolve() == left_out
        if is_left_out or (os.path.islink(root) and _is_circle(place, folder)):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(files):
            suffix = "" if name[0] == "." else os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                yield Path(root, name)
            elif unread is not None and suffix in UNREAD_SUFFIXES:
                unread(Path(root, name))


def _is_circle(place: Path, top: Path) -> bool:
    """Whether a folder below ``top`` is one of those that lead to it."""
    above = (parent for parent in place.parents if parent == top or top in parent.parents)
    return place.resolve() in {parent.resolve() for parent in above}


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The pixels of an image file, upright; see :func:`decode`."""
    with _naming(path):
        return decode(read_regular(path), path).image


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of an image file of any format that Pillow knows.

    Raises:
        TooManyPixels: for an image that :func:`decode` refuses by its size.
        ImageError: when it is no image.
    """
    with _naming(path), open_regular(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise _error(path, "an empty file")
        opened = Image.open(file)
        return _header(opened, path)


def shape_of(content: bytes | memoryview, name: str | os.PathLike[str]) -> Shape:
    """The shape that :func:`decode` gives, by the header alone.

    Args:
        content: the whole file.
        name: what error messages call it.

    Raises:
        ImageError: when it is no image, or one that :func:`decode` refuses by its header.
    """
    with _naming(name), _open(content, name) as opened:
        header = _header(opened, name)
    if not header.shape.channels:
        raise _error(name, f"mode {opened.mode}", "Convert it to RGB.")
    return header.shape


def _header(opened: Image.Image, name: str | os.PathLike[str]) -> Header:
    # Pillow gives that of a TIFF upright, or not, by its release.
    tags: Mapping[int, int] = getattr(opened, "tag_v2", {})
    size = (tags.get(_TIFF_WIDTH, opened.width), tags.get(_TIFF_HEIGHT, opened.height))
    mode = "RGBA" if "transparency" in opened.info else _AS_MODE.get(opened.mode, "")
    # Looking for an orientation after the pixels would decode them.
    is_png = opened.format == "PNG"
    has_orientation = not is_png or any(key in opened.info for key in _PNG_ORIENTED)
    is_turned = has_orientation and _orientation(opened) in (5, 6, 7, 8)
    width, height = size[::-1] if is_turned else size
    return Header(opened.format or "", Shape(height, width, _CHANNELS.get(mode, 0)))


def decode(content: bytes, name: str | os.PathLike[str]) -> Decoded:
    """Decode an image file, turned as its EXIF orientation says.

    Palettes become RGB, grey with transparency becomes RGBA, one bit becomes eight.

    Args:
        content: the whole file.
        name: what error messages call it.

    Raises:
        ImageError: when it is no image, damaged or cut off, holds several images, or has
            another kind of pixels (CMYK, floating point, ...).
    """
    return decode_opened(content, name)[0]


def decode_opened(content: bytes, name: str | os.PathLike[str]) -> tuple[Decoded, Image.Image]:
    """Decode as :func:`decode` does, and give Pillow's image too, for its metadata."""
    with _naming(name):
        opened = _open(content, name)
        return _decode(opened, content, name), opened


@contextmanager
def _naming(name: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever a decoder raises for a garbled file into an error that names it."""
    try:
        with warnings.catch_warnings():
            # Of large images and odd metadata; what matters raises.
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raised = _error(name, "a file that does not read as an image")
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raised = TooManyPixels(
            f"{name}: expected at most {most:,} pixels; found: {error} Cut the image into pieces.",
            first_line(error),
        )
    except Exception as error:  # of any kind
        if isinstance(error, OSError) and error.strerror:
            raised = _error(name, error.strerror)
        else:
            raised = _error(name, f"a damaged one ({first_line(error)})")
    else:
        return
    raise raised


def _error(name: str | os.PathLike[str], found: str, advice: str = _AGAIN) -> ImageError:
    return ImageError(f"{name}: expected {_EXPECTED}; found {found}. {advice}", found)


def _open(content: bytes | memoryview, name: str | os.PathLike[str]) -> Image.Image:
    if not content:
        raise _error(name, "an empty file")
    opened = Image.open(io.BytesIO(content), formats=_FORMATS)
    # Photos of some phones are MPO: a JPEG with a second picture for the device's own use.
    frames = getattr(opened, "n_frames", 1)
    if opened.format != "MPO" and frames > 1:
        raise ImageError(
            f"{name}: expected one image in a file; found {frames} of them. "
            "Save each as a file of its own.",
            f"{frames} of them in one file",
        )
    return opened


def _decode(opened: Image.Image, content: bytes, name: str | os.PathLike[str]) -> Decoded:
    file_format = opened.format
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
    return Decoded(np.ascontiguousarray(turned), as_stored)


def _is_16_bit_colour(opened: Image.Image, content: bytes) -> bool:
    if opened.mode.startswith("I;16"):
        return False
    if opened.format == "PNG":
        return content[_PNG_BIT_DEPTH] == 16
    tags: Mapping[int, tuple[int, ...]] = getattr(opened, "tag_v2", {})
    return set(tags.get(_TIFF_BITS_PER_SAMPLE, ())) == {16}


def _by_opencv(content: bytes, name: str | os.PathLike[str]) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise _error(name, "a damaged one")
    if image.dtype != np.uint16 or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise _error(name, f"{image.dtype} {image.shape}", "Convert it to RGB.")
    return image


def _by_pillow(opened: Image.Image, name: str | os.PathLike[str]) -> tuple[np.ndarray, bool]:
    """The pixels, and whether they were converted to another mode."""
    opened.load()
    mode = _AS_MODE.get(opened.mode)
    if mode is None:
        raise _error(name, f"mode {opened.mode}", "Convert it to RGB.")
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
        orientation = opened.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # of any kind
        return 1  # damaged metadata beside good pixels
    return orientation if isinstance(orientation, int) else 1


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
