"""Metadata in a PNG file that is encoded already: OpenCV writes pixels of 16 bits, and no more.

Source: Portable Network Graphics (PNG) Specification, third edition, W3C 2025, section 11.3.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from esc_arch.upscale.metadata import Metadata

__all__ = ["with_chunks"]

_AFTER_HEADER = 33  # signature and IHDR, which have one size
_INCHES_PER_METRE = 1 / 0.0254
_KEYWORD = re.compile(r"[!-~¡-ÿ](?:[ -~¡-ÿ]{0,77}[!-~¡-ÿ])?")


def with_chunks(png: memoryview, metadata: Metadata) -> list[bytes | memoryview]:
    """A PNG file with metadata, in pieces to be written one after the other.

    Args:
        png: a file without metadata.
        metadata: of the image; a keyword of its text that no PNG may hold is left out.
    """
    chunks = b"".join(_chunk(kind, content) for kind, content in _contents(metadata))
    return [png[:_AFTER_HEADER], chunks, png[_AFTER_HEADER:]]


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _contents(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    kinds = {kind for kind, _ in metadata.png_colour}
    yield from metadata.png_colour
    # A file may have one of the two.
    if metadata.icc_profile and b"sRGB" not in kinds:
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile)
    if metadata.dpi is not None:
        across, down = (round(dpi * _INCHES_PER_METRE) for dpi in metadata.dpi)
        yield b"pHYs", struct.pack(">IIB", across, down, 1)
    if metadata.exif:
        yield b"eXIf", metadata.exif
    if metadata.xmp:
        yield b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp
    for keyword, text in metadata.text.items():
        if _KEYWORD.fullmatch(keyword) is not None and "\0" not in text:
            yield _text(keyword.encode("latin-1"), text)


def _text(keyword: bytes, text: str) -> tuple[bytes, bytes]:
    try:
        return b"tEXt", keyword + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", keyword + b"\0\0\0\0\0" + text.encode("utf-8", "replace")
