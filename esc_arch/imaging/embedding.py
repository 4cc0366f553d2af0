"""Metadata put into PNG and TIFF files of OpenCV, which writes pixels of 16 bits, and no more.

Source: Portable Network Graphics (PNG) Specification, third edition, W3C 2025, section 11.3;
TIFF, revision 6.0, Adobe 1992, section 2; the tags of XMP, ICC and EXIF by their own
specifications.
"""

import io
import re
import struct
import zlib

from PIL import Image
from PIL.PngImagePlugin import PngInfo, putchunk
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from esc_arch.imaging.metadata import DESCRIBING_TAGS, EXIF_IFD, GPS_IFD, Metadata

__all__ = ["with_chunks", "with_tags"]

_AFTER_HEADER = 33  # signature and IHDR, which have one size
_INCHES_PER_METRE = 1 / 0.0254
_KEYWORD = re.compile(r"[!-~¡-ÿ](?:[ -~¡-ÿ]{0,77}[!-~¡-ÿ])?")

_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _INCHES = 282, 283, 296, 2
_EXTRA_SAMPLES, _STRAIGHT_ALPHA = 338, 2
_XMP, _ICC_PROFILE = 700, 34675
_INTEROPERABILITY, _MAKER_NOTE = 0xA005, 0x927C
_ENTRY = 12  # bytes


def with_chunks(png: memoryview, metadata: Metadata) -> list[bytes | memoryview]:
    """A PNG file with metadata, in pieces to be written one after the other.

    Args:
        png: a file without metadata.
        metadata: of the image; a keyword of its text that no PNG may hold is left out.
    """
    info = PngInfo()
    for kind, content in metadata.png_colour:
        info.add(kind, content)
    # A file may have one of the two.
    if metadata.icc_profile and b"sRGB" not in dict(metadata.png_colour):
        info.add(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.dpi is not None:
        across, down = (round(dpi * _INCHES_PER_METRE) for dpi in metadata.dpi)
        info.add(b"pHYs", struct.pack(">IIB", across, down, 1))
    if metadata.exif:
        info.add(b"eXIf", metadata.exif)
    if metadata.xmp:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp)
    for keyword, text in metadata.text.items():
        if _KEYWORD.fullmatch(keyword) is not None and "\0" not in text:
            info.add_text(keyword, text)
    chunks = io.BytesIO()
    for kind, content, _ in info.chunks:
        putchunk(chunks, kind, content)
    return [png[:_AFTER_HEADER], chunks.getvalue(), png[_AFTER_HEADER:]]


def with_tags(tiff: memoryview, metadata: Metadata, has_alpha: bool) -> list[bytes | memoryview]:
    """A TIFF file with metadata, in pieces to be written one after the other.

    The file gets a new directory at its end, with its own entries and those of the metadata.
    Of EXIF, the maker's note is left out: its offsets would lead elsewhere.

    Args:
        tiff: a little-endian file of one image, as OpenCV writes it.
        metadata: of the image.
        has_alpha: whether the last of its channels is a straight alpha.
    """
    entries = _entries(tiff, *struct.unpack_from("<I", tiff, 4))
    padding = b"\0" * (len(tiff) % 2)
    start = len(tiff) + len(padding)
    added = _added(metadata, has_alpha).tobytes(start)
    # Entries of the file first, since the metadata may not change those that describe its pixels.
    entries = {**_entries(added, 0), **entries}
    directory = struct.pack("<H", len(entries))
    directory += b"".join(entry for _, entry in sorted(entries.items())) + bytes(4)
    added += b"\0" * (len(added) % 2)
    head = bytes(tiff[:4]) + struct.pack("<I", start + len(added))
    return [head, tiff[8:], padding, added, directory]


def _entries(data: bytes | memoryview, offset: int) -> dict[int, bytes]:
    """The entries of a directory by tag."""
    (count,) = struct.unpack_from("<H", data, offset)
    places = range(offset + 2, offset + 2 + _ENTRY * count, _ENTRY)
    return {struct.unpack_from("<H", data, p)[0]: bytes(data[p : p + _ENTRY]) for p in places}


def _added(metadata: Metadata, has_alpha: bool) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2(ifh=b"II*\0\x08\0\0\0")
    exif = Image.Exif()
    exif.load(metadata.exif)
    for tag in DESCRIBING_TAGS:
        if tag in exif:
            directory[tag] = exif[tag]
    for tag in (EXIF_IFD, GPS_IFD):
        kept = dict(exif.get_ifd(tag))
        for pointer in (_INTEROPERABILITY, _MAKER_NOTE):
            kept.pop(pointer, None)
        if kept:
            directory[tag] = kept
    if metadata.dpi is not None:
        directory[_X_RESOLUTION], directory[_Y_RESOLUTION] = metadata.dpi
        directory[_RESOLUTION_UNIT] = _INCHES
    if metadata.xmp:
        directory[_XMP] = metadata.xmp
    if metadata.icc_profile:
        directory[_ICC_PROFILE] = metadata.icc_profile
    if has_alpha:
        directory[_EXTRA_SAMPLES] = (_STRAIGHT_ALPHA,)
    return directory
