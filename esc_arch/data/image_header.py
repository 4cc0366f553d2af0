"""The shape of an encoded image, from its header where that tells enough."""

import os
import struct
from typing import NamedTuple

from esc_arch.data.image_files import decode

__all__ = ["Shape", "shape_of"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Of an image header: length and name of the chunk, width, height, bit depth, colour type.
_PNG_START = struct.Struct(">I4sIIBB")
_PNG_CHUNK = struct.Struct(">I4s")
_PNG_CHANNELS = {0: 1, 2: 3, 6: 4}  # grey, RGB, RGBA; palettes and grey with alpha vary
# Chunks that add a channel or turn the image.
_PNG_CHANGES = (b"tRNS", b"eXIf", b"acTL")
# A marker and its length; in a frame also the precision, height, width, channels.
_JPEG_FRAME = struct.Struct(">BBHBHHB")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_APP1 = 0xE1


class Shape(NamedTuple):
    """Of an image as it is decoded, upright; channels are 1, 3 or 4."""

    height: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.channels} channels"


def shape_of(content: bytes | memoryview, name: str | os.PathLike[str]) -> Shape:
    """The shape that :func:`esc_arch.data.image_files.decode` gives.

    Args:
        content: the whole file.
        name: what error messages call it.

    Raises:
        UserError: when it is no image.
    """
    shape = _plain_png(content) or _plain_jpeg(content)
    if shape is None:
        image = decode(bytes(content), name).image
        shape = Shape(*image.shape[:2], image.shape[2] if image.ndim == 3 else 1)
    return shape


def _plain_png(content: bytes | memoryview) -> Shape | None:
    if bytes(content[:8]) != _SIGNATURE or len(content) < 8 + _PNG_START.size:
        return None
    _, _, width, height, _, colour = _PNG_START.unpack_from(content, 8)
    position = 8
    while position + _PNG_CHUNK.size <= len(content):
        length, kind = _PNG_CHUNK.unpack_from(content, position)
        if kind in _PNG_CHANGES:
            return None
        # What follows the pixels is not looked at: it would take longer than copying them.
        if kind == b"IDAT":
            channels = _PNG_CHANNELS.get(colour)
            return None if channels is None else Shape(height, width, channels)
        position += length + 12
    return None  # cut off, which decoding will say better


def _plain_jpeg(content: bytes | memoryview) -> Shape | None:
    if bytes(content[:2]) != b"\xff\xd8":
        return None
    position = 2
    while position + _JPEG_FRAME.size <= len(content):
        start, kind, length, _, height, width, channels = _JPEG_FRAME.unpack_from(content, position)
        # EXIF may turn the image; the height of some files comes after the pixels.
        if start != 0xFF or kind == _JPEG_APP1 or (kind in _JPEG_FRAMES and not height):
            return None
        if kind in _JPEG_FRAMES:
            return Shape(height, width, channels) if channels in (1, 3) else None
        position += 2 + length
    return None
