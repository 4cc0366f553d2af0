"""Image files with their metadata, read and written complete or not at all.

Shapes: pixels are (H, W) for grey, (H, W, 3) for RGB and (H, W, 4) for RGBA; uint8 or uint16.

What each format keeps:

======  =========  =====  ====  ===  ===  ===  ====
format  bits       alpha  EXIF  XMP  ICC  DPI  text
======  =========  =====  ====  ===  ===  ===  ====
PNG     8, 16      yes    yes   yes  yes  yes  yes
TIFF    8, 16      yes    yes   yes  yes  yes  no
JPEG    8          no     yes   yes  yes  yes  the comment
WebP    8          yes    yes   yes  yes  in EXIF  no
BMP     8          no     no    no   no   yes  no
======  =========  =====  ====  ===  ===  ===  ====

16 bits are rounded to 8 where a format has no more, and alpha is laid on white where it has
none; what is not kept is said.
"""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from esc_arch.errors import UserError
from esc_arch.files import read_regular, whole_file
from esc_arch.imaging.alpha import on_white
from esc_arch.imaging.codecs import PNG_OPTIONS, decode_opened
from esc_arch.imaging.embedding import with_chunks, with_tags
from esc_arch.imaging.metadata import Metadata, metadata_of, resized_exif, resized_xmp

__all__ = [
    "FORMATS",
    "Encoding",
    "Picture",
    "check_size",
    "encode",
    "format_of",
    "read_picture",
    "write_picture",
]

# Formats by extension; the first extension of each is the one that it is given.
_EXTENSIONS = {
    **{".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"},
    **{".tif": "tiff", ".tiff": "tiff", ".bmp": "bmp"},
}
FORMATS = {name: ext for ext, name in reversed(_EXTENSIONS.items())}

_LONGEST_SIDE = {"jpeg": 65500, "webp": 16383, "png": 2**31 - 1, "tiff": 2**31 - 1}
# TIFF and BMP count bytes in 32 bits.
_MOST_BYTES = {"tiff": 2**32 - 2**24, "bmp": 2**31 - 2**16}
_SEGMENT = 65000  # bytes of metadata in a segment of a JPEG
_AS_BGR = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
_AS_RGB = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
_ICC_SPACES = {1: b"GRAY", 3: b"RGB ", 4: b"RGB "}
_TIFF_OPTIONS = (cv2.IMWRITE_TIFF_COMPRESSION, 8)  # Deflate of Adobe, which all programs read


@dataclass(frozen=True)
class Picture:
    """An image in memory: pixels, as described at the head of this file, and metadata."""

    pixels: np.ndarray
    metadata: Metadata


@dataclass(frozen=True)
class Encoding:
    """How an image file is to be encoded.

    Attributes:
        format: one of FORMATS.
        quality: of JPEG and lossy WebP, 1 to 100.
        lossless: of WebP.
    """

    format: str
    quality: int = 95
    lossless: bool = False


def read_picture(path: Path) -> Picture:
    """Read an image file, turned as its orientation says.

    Palettes become RGB, grey with transparency becomes RGBA, one bit becomes eight.  The
    metadata are as in the file; :func:`write_picture` makes them true of the written image.

    Raises:
        UserError: when it cannot be read, is no image, damaged or cut off, holds several
            images, or has another kind of pixels (CMYK, floating point, ...).
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise UserError(
            f"{path}: expected an image file; found: {error.strerror or error}."
        ) from None
    decoded, opened = decode_opened(content, path)
    pixels = decoded.image
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, _AS_RGB[pixels.shape[2]])
    return Picture(pixels, metadata_of(opened, content))


def format_of(path: Path) -> str | None:
    """The format by the extension of a file, in any case; None for another extension."""
    return _EXTENSIONS.get(path.suffix.lower())


def check_size(path: Path, image_format: str, width: int, height: int, channel_bytes: int) -> None:
    """Refuse an image that its format cannot hold.

    Args:
        path: what the error calls it.
        image_format: one of FORMATS.
        width, height: in pixels.
        channel_bytes: of a pixel, all its channels together.

    Raises:
        UserError: when it is too large.
    """
    longest = _LONGEST_SIDE.get(image_format)
    if longest is not None and max(width, height) > longest:
        raise UserError(
            f"{path}: expected at most {longest} pixels a side in a {image_format.upper()} file; "
            f"found {width}x{height}. Choose --format png, or a smaller --scale."
        )
    most = _MOST_BYTES.get(image_format)
    if most is not None and width * height * channel_bytes > most:
        raise UserError(
            f"{path}: expected at most {most / 2**30:.0f} GiB of pixels in a "
            f"{image_format.upper()} file; found {width}x{height}. Choose --format png, or a "
            "smaller --scale."
        )


def write_picture(
    path: Path, picture: Picture, encoding: Encoding, overwrite: bool = False
) -> list[str]:
    """Write an image file under a temporary name in its folder, and rename it when complete.

    Its metadata are made true first: upright, its size, no thumbnail; see the head of this file
    for what each format keeps.

    Args:
        path: is made, with its folder; the extension does not matter.
        picture: upright.
        encoding: format and quality.
        overwrite: replace a file that is there.

    Returns:
        What could not be kept, for the user to read.

    Raises:
        UserError: when the file is there already, or the format cannot hold so large an image.
        OSError: when it cannot be written.
    """
    pieces, notes = encode(path, picture, encoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        with open(temporary, "wb") as file:
            for piece in pieces:
                file.write(piece)
        if not overwrite and os.path.lexists(path):
            raise UserError(
                f"{path}: expected no such file; it was made meanwhile. Use --overwrite to "
                "replace it."
            )
    return notes


def encode(
    path: Path, picture: Picture, encoding: Encoding
) -> tuple[Iterable[bytes | memoryview], list[str]]:
    """The contents of an image file in pieces, and notes on metadata that was dropped."""
    pixels, metadata = picture.pixels, picture.metadata
    height, width = pixels.shape[:2]
    image_format = encoding.format
    check_size(path, image_format, width, height, pixels.nbytes // (height * width))
    notes: list[str] = []
    if pixels.dtype == np.uint16 and image_format not in ("png", "tiff"):
        pixels = _rounded_to_8_bits(pixels)
        notes.append(f"16 bits were rounded to 8, as {image_format.upper()} has no more")
    if pixels.ndim == 3 and pixels.shape[2] == 4 and image_format in ("jpeg", "bmp"):
        pixels = on_white(pixels)
        notes.append(f"transparency was laid on white, as {image_format.upper()} has none")
    if pixels.ndim == 2 and image_format == "webp":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    metadata = replace(
        metadata,
        exif=resized_exif(metadata.exif, width, height) if metadata.exif else b"",
        xmp=resized_xmp(metadata.xmp, width, height),
    )
    if picture.metadata.exif and not metadata.exif:
        notes.append("its EXIF is damaged and was left out")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if metadata.icc_profile and metadata.icc_profile[16:20] != _ICC_SPACES[channels]:
        metadata = replace(metadata, icc_profile=b"")
        notes.append("its ICC profile is of another kind of pixels and was left out")
    if image_format == "png":
        return with_chunks(_by_opencv(".png", pixels, PNG_OPTIONS), metadata), notes
    if image_format == "tiff":
        encoded = _by_opencv(".tiff", pixels, _TIFF_OPTIONS)
        return with_tags(encoded, metadata, has_alpha=channels == 4), notes
    return [_by_pillow(pixels, metadata, encoding, notes)], notes


def _rounded_to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """round(255 / 65535 * v), which is v / 257; no half occurs, as 257 is odd."""
    # In 16 bits it would go beyond the top: (v + 128) // 257 is not above 255 in any case.
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _by_opencv(extension: str, pixels: np.ndarray, options: tuple[int, ...]) -> memoryview:
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, _AS_BGR[pixels.shape[2]])
    # Not copied, as it may be large.
    return cv2.imencode(extension, pixels, options)[1].reshape(-1).data


def _by_pillow(
    pixels: np.ndarray, metadata: Metadata, encoding: Encoding, notes: list[str]
) -> bytes:
    options: dict[str, object] = {"quality": encoding.quality}
    kept = {"exif": metadata.exif, "xmp": metadata.xmp, "icc_profile": metadata.icc_profile}
    if encoding.format == "jpeg":
        # Colours at full resolution: a network's edges are not to be blurred again.
        options["subsampling"] = 0
        kept["comment"] = metadata.text.get("Comment", "").encode()
        kept["exif"] = b"Exif\0\0" + metadata.exif if metadata.exif else b""
        for name in ("exif", "xmp", "comment"):
            if len(kept[name]) > _SEGMENT:
                notes.append(f"its {name.upper()} is too long for a JPEG and was left out")
                kept[name] = b""
    elif encoding.format == "webp":
        options |= {"lossless": encoding.lossless, "exact": encoding.lossless}
        if metadata.dpi is not None and not metadata.exif:
            kept["exif"] = _resolution(metadata.dpi)
    else:
        kept, options = {}, {}
    if metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    file = io.BytesIO()
    options |= {name: value for name, value in kept.items() if value}
    Image.fromarray(pixels).save(file, encoding.format.upper(), **options)
    return file.getvalue()


def _resolution(dpi: tuple[float, float]) -> bytes:
    """EXIF with nothing but the pixels per inch."""
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = *dpi, 2
    return exif.tobytes().removeprefix(b"Exif\0\0")
