"""EXIF, XMP, ICC profile, resolution and text of image files, also for another size."""

import io
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

__all__ = ["Metadata", "metadata_of", "resized_exif", "resized_xmp"]

# Of IFD 0 of a TIFF file, what describes the picture and not how its pixels are stored:
# description, make, model, resolution, software, date, artist, host, rating, copyright.
DESCRIBING_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432)
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_THUMBNAIL, _THUMBNAIL_LENGTH = 0x0201, 0x0202
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_CENTIMETRES = 3
_XMP, _ICC_PROFILE = 700, 34675
_SHORT, _LONG = 3, 4
_EXIF_START = b"Exif\0\0"

_XMP_NUMBERS = rb"""((?:tiff:|exif:)%b\s*(?:=\s*["']|>))\s*\d+"""
_XMP_THUMBNAILS = re.compile(rb"<(xmp|xap):Thumbnails\b.*?</\1:Thumbnails>", re.DOTALL)

# What describes a film, a second picture or a depth map that only the file it came in holds: by
# namespace, the names in it.
_EMBEDDED = (
    (rb"http://ns\.google\.com/photos/1\.0/camera/", rb"(?:MotionPhoto|MicroVideo)\w*"),
    (rb"http://ns\.google\.com/photos/1\.0/(?:container|image|audio|depthmap)/(?:item/)?", rb"\w+"),
    (rb"http://ns\.google\.com/photos/dd/1\.0/\w+/", rb"\w+"),
    (rb"http://ns\.adobe\.com/hdr-gain-map/1\.0/", rb"\w+"),
    (rb"http://ns\.apple\.com/(?:HDRGainMap|pixeldatainfo)/1\.0/", rb"\w+"),
    (rb"http://ns\.adobe\.com/xmp/note/", rb"HasExtendedXMP"),
)
_EXIF_FILM = 0x8897  # of one maker: there is a film behind the picture

# They say how numbers of a PNG are meant as colours.
_PNG_COLOUR = (b"cHRM", b"gAMA", b"sRGB", b"cICP")
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, struct.error)


@dataclass(frozen=True)
class Metadata:
    """The metadata of an image file: all that it holds beside its pixels.

    Attributes:
        exif: a TIFF structure, as PNG and WebP hold it; empty when there is none.
        xmp: an XMP packet, or empty.
        icc_profile: of the colours, or empty.
        dpi: pixels per inch, across and down.
        text: of a PNG by keyword; the comment of a JPEG as ``Comment``.
        png_colour: chunks of a PNG on the meaning of its colours, names with contents.
    """

    exif: bytes = b""
    xmp: bytes = b""
    icc_profile: bytes = b""
    dpi: tuple[float, float] | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    png_colour: tuple[tuple[bytes, bytes], ...] = ()


def metadata_of(opened: Image.Image | None, content: bytes) -> Metadata:
    """The metadata of an image file; damaged parts are left out.

    Of a JPEG, the IPTC block, the previews (MPF) and maker's segments other than EXIF are not
    taken.

    Args:
        opened: by Pillow; None of a TIFF.
        content: the whole file.
    """
    if opened is None:
        return _metadata_of_tiff(content)
    info = opened.info
    exif = _exif(opened)
    return Metadata(
        exif=exif,
        xmp=_xmp(opened),
        icc_profile=_bytes(info.get("icc_profile")),
        dpi=_dpi(info.get("dpi")) or _dpi(_exif_dpi(exif)),
        text=_text(opened),
        png_colour=_png_colour(content) if opened.format == "PNG" else (),
    )


def _metadata_of_tiff(content: bytes) -> Metadata:
    tags = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags
            tags.load(content)
            exif = _described(tags)
    except _DAMAGED:
        exif = b""
    import tifffile  # with codecs, which has read it; Pillow finds no tag in some BigTIFF files

    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        of_page = opened.pages.first.tags
        xmp, profile = (_bytes(of_page.valueof(tag)) for tag in (_XMP, _ICC_PROFILE))
    return Metadata(exif, xmp.rstrip(b"\0"), profile, _dpi(_exif_dpi(exif)))


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _exif(opened: Image.Image) -> bytes:
    try:
        exif = _bytes(opened.info.get("exif"))
        if not exif and "Raw profile type exif" in opened.info:
            exif = opened.getexif().tobytes()
    except _DAMAGED:
        return b""
    exif = exif.removeprefix(_EXIF_START)
    return exif if exif[:4] in (b"II*\0", b"MM\0*") else b""


def _described(tiff: Image.Exif) -> bytes:
    """Of the tags of a TIFF file, those that any EXIF may hold."""
    exif = Image.Exif()
    for tag in DESCRIBING_TAGS:
        if tag in tiff:
            exif[tag] = tiff[tag]
    for ifd in (EXIF_IFD, GPS_IFD):
        if entries := tiff.get_ifd(ifd):
            exif[ifd] = dict(entries)
    return exif.tobytes().removeprefix(_EXIF_START) if len(exif) else b""


def _xmp(opened: Image.Image) -> bytes:
    xmp = opened.info.get("xmp") or opened.info.get("XML:com.adobe.xmp") or b""
    return xmp.encode() if isinstance(xmp, str) else _bytes(xmp).rstrip(b"\0")


def _exif_dpi(exif: bytes) -> tuple[float, float] | None:
    entries = Image.Exif()
    try:
        entries.load(exif)
        across, down = float(entries[_X_RESOLUTION]), float(entries[_Y_RESOLUTION])
        unit = entries.get(_RESOLUTION_UNIT, 2)
    except (*_DAMAGED, ZeroDivisionError):
        return None
    inch = {2: 1, _CENTIMETRES: 2.54}.get(unit)
    return None if inch is None else (across * inch, down * inch)


def _dpi(value: object) -> tuple[float, float] | None:
    if not isinstance(value, tuple):
        return None
    try:
        across, down = (float(number) for number in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # 0, 1 and NaN stand for none in many a file.
    return (across, down) if 1 < across < 1e6 and 1 < down < 1e6 else None


def _text(opened: Image.Image) -> dict[str, str]:
    if isinstance(opened, PngImageFile):
        # Packed EXIF and XMP of other programs among them would say what is not true any more.
        return {
            str(key): str(value)
            for key, value in opened.text.items()
            if not key.startswith(("Raw profile type", "XML:com.adobe.xmp"))
        }
    comment = opened.info.get("comment")
    if isinstance(comment, bytes):
        comment = comment.decode("utf-8", "replace")
    return {"Comment": comment} if isinstance(comment, str) and comment else {}


def _png_colour(content: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found, position = [], 8
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if kind in (b"PLTE", b"IDAT"):
            break
        if kind in _PNG_COLOUR:
            found.append((kind, content[position + 8 : position + 8 + length]))
        position += 12 + length
    return tuple(found)


def resized_exif(exif: bytes, width: int, height: int) -> bytes:
    """EXIF for an upright image of another size.

    Orientation and sizes are set where they stand, so that all else, such as a maker's note
    with offsets of its own, stays as it is.  The thumbnail is taken off.

    Args:
        exif: a TIFF structure.
        width, height: in pixels.

    Returns:
        A TIFF structure; empty when the given one is damaged.
    """
    data = bytearray(exif)
    try:
        _resize(
            data,
            {_WIDTH: width, _HEIGHT: height, _EXIF_FILM: 0},
            {_PIXEL_WIDTH: width, _PIXEL_HEIGHT: height, _EXIF_FILM: 0},
        )
    except struct.error:
        return b""
    return bytes(data)


def _resize(data: bytearray, sizes: Mapping[int, int], exif_sizes: Mapping[int, int]) -> None:
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        raise struct.error("no byte order")
    (first,) = struct.unpack_from(order + "I", data, 4)
    entries, link = _directory(data, order, first)
    for tag, position in entries.items():
        if tag == _ORIENTATION:
            struct.pack_into(order + "HIHH", data, position + 2, _SHORT, 1, 1, 0)
        elif tag in sizes:
            struct.pack_into(order + "HII", data, position + 2, _LONG, 1, sizes[tag])
    if EXIF_IFD in entries:
        (exif_ifd,) = struct.unpack_from(order + "I", data, entries[EXIF_IFD] + 8)
        for tag, position in _directory(data, order, exif_ifd)[0].items():
            if tag in exif_sizes:
                struct.pack_into(order + "HII", data, position + 2, _LONG, 1, exif_sizes[tag])
    # Directory 1 is the thumbnail's.
    (second,) = struct.unpack_from(order + "I", data, link) if link + 4 <= len(data) else (0,)
    if second:
        struct.pack_into(order + "I", data, link, 0)
        _blank_thumbnail(data, order, second)


def _directory(data: bytearray, order: str, offset: int) -> tuple[dict[int, int], int]:
    """Where each tag of a directory stands, and where the offset of the next directory does."""
    (count,) = struct.unpack_from(order + "H", data, offset)
    places = range(offset + 2, offset + 2 + 12 * count, 12)
    if places.stop > len(data):
        raise struct.error("cut off")
    return {struct.unpack_from(order + "H", data, p)[0]: p for p in places}, places.stop


def _blank_thumbnail(data: bytearray, order: str, directory: int) -> None:
    try:
        entries, _ = _directory(data, order, directory)
        start, length = (
            struct.unpack_from(order + "I", data, entries[tag] + 8)[0]
            for tag in (_THUMBNAIL, _THUMBNAIL_LENGTH)
        )
    except (struct.error, KeyError):
        return  # nothing points to it any more
    if start + length >= len(data):
        del data[max(start, 8) :]
    else:
        data[start : start + length] = bytes(length)


def resized_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """An XMP packet for an upright image of another size.

    Thumbnails are left out, and what describes films and pictures that came in the same file.
    """
    for names, value in (
        (b"Orientation", 1),
        (b"(?:ImageWidth|PixelXDimension)", width),
        (b"(?:ImageLength|PixelYDimension)", height),
    ):
        xmp = re.sub(_XMP_NUMBERS % names, rb"\g<1>%d" % value, xmp)
    xmp = _XMP_THUMBNAILS.sub(b"", xmp)
    for space, names in _EMBEDDED:
        xmlns = rb"""\s+xmlns:([\w.-]+)\s*=\s*(["'])%b\2""" % space
        for prefix in {match[1] for match in re.finditer(xmlns, xmp)}:
            name = rb"%b:%b" % (re.escape(prefix), names)
            xmp = re.sub(rb"""\s+%b\s*=\s*(?:"[^"]*"|'[^']*')""" % name, b"", xmp)
            xmp = re.sub(rb"<%b(?:\s[^<>]*)?/>" % name, b"", xmp)
            xmp = re.sub(rb"<(%b)(?:\s[^<>]*)?>.*?</\1\s*>" % name, b"", xmp, flags=re.DOTALL)
            if re.search(rb"[<\s]%b:" % re.escape(prefix), xmp) is None:
                xmp = re.sub(xmlns.replace(rb"[\w.-]+", re.escape(prefix)), b"", xmp)
    return xmp
