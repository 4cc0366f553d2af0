"""TIFF files: what a file holds, and its pixels, by tifffile.

Shapes: (H, W) for grey, (H, W, 3) for RGB, (H, W, 4) for RGBA; uint8 or uint16.

Without the package imagecodecs, tifffile undoes deflate and LZMA.  Other codes of bytes (LZW,
PackBits, Zstandard) are undone by libtiff through Pillow before.  Pillow decodes whole files where
a code is one of images (JPEG, CCITT), and pixels of less than a byte.

Source: TIFF, revision 6.0, Adobe 1992; its technical note of 2002 on associated alpha.
"""

from __future__ import annotations

import io
import itertools
import logging
import math
import os
import re
import struct
from typing import IO, NamedTuple

import numpy as np
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from esc_arch.imaging.colour import cmyk_to_srgb, lab_to_srgb, ycbcr_to_rgb
from esc_arch.imaging.kinds import Refused
from esc_arch.imaging.quiet import quiet

__all__ = ["TiffPixels", "TiffSize", "decode_tiff", "tiff_size"]

_SAVE = "Save it with 8 or 16 bits a channel."
_UNSIGNED = 1
_SAMPLE_FORMATS = {2: "signed integers", 3: "floating point", 5: "complex", 6: "complex"}
_CODES_OF_TIFFFILE = frozenset({1, 8, 32946, 34925})  # none, deflate, its old number, LZMA
_CODES_OF_LIBTIFF = frozenset({5, 32773, 50000})  # LZW, PackBits, Zstandard
_WITHOUT_PREDICTOR = (1, 32773)
_CODES_OF_IMAGES = frozenset({2, 3, 4, 7})  # CCITT, JPEG
_JPEG = 7
# Photometric interpretations, and how many channels each has.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB, _ICC_LAB = (
    *(0, 1, 2, 3, 5, 6, 8, 9),
)
_CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}
_UNSPECIFIED, _PREMULTIPLIED, _STRAIGHT = 0, 1, 2
_ORIENTATION, _INK_SET, _ICC_PROFILE = 274, 332, 34675
_YCBCR_COEFFICIENTS, _YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 529, 530, 532
_PALETTE_COLOURS = 320
_BT601 = (0.299, 0.587, 0.114)
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
_LONG = 4  # type of a tag
_REDUCED_OR_MASK = 1 | 4  # of NewSubfileType
# The name that Pillow gives the file, or that of a function of libtiff.
_LIBTIFF_LINE = re.compile(
    rb"tempfile\.tif:|\w*(?:TIFF|Decode|Setup|JPEG|Fax|ZSTD|LZMA)\w*:|.*\btempfile\.tif\b"
)

# What it says of odd tags would stand between the user's lines; what matters raises.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


# Of an opened file, whose number tifffile would take for a path.
_NAME = "image.tif"


class TiffSize(NamedTuple):
    """Of an image as it is stored.

    Attributes:
        channels: as it is decoded: 1, 3 or 4.
        pixel_bytes: that a decoded pixel takes.
        orientation: by EXIF's numbers.
    """

    width: int
    height: int
    channels: int
    pixel_bytes: int
    orientation: int


class TiffPixels(NamedTuple):
    """The pixels of a file.

    Attributes:
        pixels: as stored, not turned.
        orientation: by which they are to be turned.
        is_srgb: whether they were converted from other colours, so that the file's profile is
            not true of them.
        notes: what was converted, for the user.
    """

    pixels: np.ndarray
    orientation: int
    is_srgb: bool
    notes: tuple[str, ...]


class _Layout(NamedTuple):
    """Which samples of a pixel are what.

    Attributes:
        colours: how many come first.
        alpha: the number of the sample that is alpha.
        unnamed: samples that are neither.
    """

    colours: int
    alpha: int | None
    is_premultiplied: bool
    unnamed: int


def tiff_size(file: IO[bytes]) -> TiffSize:
    """The size of the image in a file, by its header.

    Raises:
        Refused: for an image that is not used.
        Exception: of many kinds, when it is damaged.
    """
    with tifffile.TiffFile(file, name=_NAME) as opened:
        page = _first(opened)
        layout = _layout(opened, page)
        grey = layout.colours == 1 and page.photometric != _PALETTE
        channels = 4 if layout.alpha is not None else 1 if grey else 3
        pixel_bytes = page.samplesperpixel * max(page.bitspersample // 8, 1)
        size = page.imagewidth, page.imagelength
        return TiffSize(*size, channels, pixel_bytes, _orientation(page))


def decode_tiff(content: bytes) -> TiffPixels:
    """Decode a file of one image; reduced images and masks beside it are passed over.

    Raises:
        Refused: for an image that is not used.
        Exception: of many kinds, when it is damaged.
    """
    file = io.BytesIO(content)
    with tifffile.TiffFile(file, name=_NAME) as opened:
        page = _first(opened)
        layout = _layout(opened, page)
        profile = bytes(page.tags.valueof(_ICC_PROFILE, b"") or b"")
        _check_segments(page, len(content))
        if page.bitspersample < 8 or page.compression in _CODES_OF_IMAGES or _is_plain(page):
            return _by_pillow(content, page, profile)
        samples = _samples(file, page)
        orientation = _orientation(page)
        colour_map = page.tags.valueof(_PALETTE_COLOURS)
        tags = page.tags
        luma = _numbers(tags.valueof(_YCBCR_COEFFICIENTS), 3) or _BT601
        black_white = _numbers(tags.valueof(_REFERENCE_BLACK_WHITE), 6) or _FULL_RANGE
        photometric = page.photometric
    notes: list[str] = []
    if layout.unnamed:
        notes.append(
            "a channel beside the colours that is not said to be transparency was left out"
        )
    colour = samples[..., : layout.colours]
    alpha = None if layout.alpha is None else samples[..., layout.alpha : layout.alpha + 1]
    if alpha is not None and layout.is_premultiplied:
        colour = _unmultiplied(colour, alpha)
    is_srgb = False
    if photometric == _WHITE_IS_ZERO:
        colour = ~colour
    elif photometric == _PALETTE:
        colour = _of_palette(colour[..., 0], colour_map)
    elif photometric == _CMYK:
        if colour.dtype == np.uint16:
            colour = ((colour.astype(np.uint32) + 128) // 257).astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(colour), "CMYK")
        colour, note = cmyk_to_srgb(image, profile)
        notes.append(note)
        is_srgb = True
        if alpha is not None and alpha.dtype == np.uint16:
            alpha = ((alpha.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif photometric in (_LAB, _ICC_LAB):
        colour = lab_to_srgb(np.ascontiguousarray(colour), photometric == _ICC_LAB)
        notes.append("converted from CIE L*a*b* to sRGB")
        is_srgb = True
    elif photometric == _YCBCR:
        colour = ycbcr_to_rgb(np.ascontiguousarray(colour), luma, black_white)  # type: ignore[arg-type]
        notes.append("converted from YCbCr to RGB")
    if alpha is not None:
        if colour.shape[2] == 1:
            colour = colour.repeat(3, 2)
        colour = np.concatenate([colour, alpha], 2)
    pixels = colour[..., 0] if colour.shape[2] == 1 else colour
    return TiffPixels(pixels, orientation, is_srgb, tuple(notes))


def _first(opened: tifffile.TiffFile) -> tifffile.TiffPage:
    try:
        page = opened.pages.first
    except IndexError:
        raise ValueError("its directory is cut off") from None
    if 0 in (page.imagewidth, page.imagelength):
        raise ValueError("no pixels")
    return page


def _layout(opened: tifffile.TiffFile, page: tifffile.TiffPage) -> _Layout:
    """
    Raises:
        Refused: for an image that is not used.
    """
    others = [p for p in opened.pages[1:] if isinstance(p, tifffile.TiffPage)]
    images = 1 + sum(not int(p.subfiletype) & _REDUCED_OR_MASK for p in others)
    if images > 1:
        raise Refused(f"{images} of them in one file", "Save each as a file of its own.")
    if page.imagedepth > 1:
        raise Refused(f"a volume of {page.imagedepth} layers", "Save each as a file of its own.")
    bits, kind = page.bitspersample, page.sampleformat
    if kind in _SAMPLE_FORMATS:
        name = f"{_SAMPLE_FORMATS[kind]} of {bits} bits"
        if kind != 3:
            raise Refused(f"{name} a channel", _SAVE)
        raise Refused(
            f"{name} a channel, of which no file says whether 1, 255 or another number is white",
            "Scale the values so that white is 65535, and save it with 16 bits a channel.",
        )
    photometric = int(page.photometric)
    colours = _CHANNELS.get(photometric)
    if colours is None:
        name = _name(page.photometric)
        raise Refused(f"pixels of kind {name} (photometric {photometric})", "Convert it to RGB.")
    if bits not in (1, 2, 4, 8, 16) or (bits < 8 and page.samplesperpixel > 1):
        raise Refused(f"{bits} bits a channel in {page.samplesperpixel} channels", _SAVE)
    if photometric == _CMYK and page.tags.valueof(_INK_SET, 1) != 1:
        raise Refused("inks other than cyan, magenta, yellow and black", "Convert it to RGB.")
    if page.samplesperpixel < colours:
        name = _name(page.photometric)
        raise Refused(f"{page.samplesperpixel} channels of {name}", "Convert it to RGB.")
    _check_code(page, photometric, bits)
    extra = page.samplesperpixel - colours
    meant = list(page.extrasamples)[:extra]
    if not meant and extra == 1 and photometric != _CMYK:
        meant = [_STRAIGHT]  # many writers, OpenCV among them, leave the tag out
    alphas = [i for i, value in enumerate(meant) if value in (_PREMULTIPLIED, _STRAIGHT)]
    if not alphas:
        return _Layout(colours, None, False, extra)
    first = alphas[0]
    return _Layout(colours, colours + first, meant[first] == _PREMULTIPLIED, extra - 1)


def _check_code(page: tifffile.TiffPage, photometric: int, bits: int) -> None:
    code = int(page.compression)
    name = _name(page.compression)
    advice = "Save it with LZW or deflate compression, or with none."
    known = _CODES_OF_TIFFFILE | _CODES_OF_LIBTIFF | _CODES_OF_IMAGES
    beside = page.samplesperpixel - _CHANNELS[photometric]
    is_plain = page.planarconfig == 1 and not beside
    if code == _JPEG and photometric in (_BLACK_IS_ZERO, _RGB):
        # Pillow would divide colours by alpha once more, or not at all.
        straight = not page.extrasamples or page.extrasamples[0] == _STRAIGHT
        is_plain = page.planarconfig == 1 and beside <= straight
    if code not in known or (
        # What Pillow decodes whole.
        code in _CODES_OF_IMAGES
        and not (is_plain and bits == (8 if code == _JPEG else 1) and photometric < _LAB)
    ):
        raise Refused(
            f"{bits} bits of {page.samplesperpixel} channels in the compression {name}", advice
        )
    if page.predictor not in (1, 2):
        raise Refused(f"the predictor {page.predictor}", advice)
    if photometric != _YCBCR or code == _JPEG:
        return
    # Written by many without the tag, whose default is 2 by 2.
    whole = page.imagewidth * page.imagelength * page.samplesperpixel
    is_whole = code == 1 and sum(page.databytecounts) >= whole
    is_full = is_whole or page.tags.valueof(_YCBCR_SUBSAMPLING, (2, 2)) == (1, 1)
    if not is_full or bits != 8:
        raise Refused("YCbCr of fewer colours than pixels, without JPEG", "Convert it to RGB.")


def _name(number: int) -> str:
    return str(getattr(number, "name", number))


def _is_plain(page: tifffile.TiffPage) -> bool:
    """Whether Pillow gives the same pixels sooner: packed grey or RGB of 8 bits."""
    # Pillow finds nothing in a BigTIFF of the other byte order.
    is_packed = page.compression in _CODES_OF_LIBTIFF and not page.parent.is_bigtiff
    is_colour = page.photometric in (_BLACK_IS_ZERO, _RGB) and page.planarconfig == 1
    is_plain = is_packed and is_colour and page.bitspersample == 8
    return is_plain and page.samplesperpixel == _CHANNELS[page.photometric]


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(_ORIENTATION, 1)
    return int(value) if isinstance(value, int) else 1


def _numbers(value: object, count: int) -> tuple[float, ...] | None:
    """Rationals as tifffile gives them: numerators and denominators in turn."""
    if not isinstance(value, tuple) or len(value) != 2 * count or 0 in value[1::2]:
        return None
    return tuple(above / below for above, below in zip(value[::2], value[1::2], strict=True))


def _check_segments(page: tifffile.TiffPage, length: int) -> None:
    """
    Raises:
        ValueError: when some of the pixels are not in the file.
    """
    segments, expected = len(page.dataoffsets), math.prod(page.chunked)
    if segments < expected or 0 in page.databytecounts[:expected]:
        raise ValueError(f"{segments} parts of the image instead of {expected}, or empty ones")
    if max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))) > length:
        raise ValueError("cut off")


def _samples(file: io.BytesIO, page: tifffile.TiffPage) -> np.ndarray:
    """(H, W, samples), in the machine's byte order."""
    page.subsampling = (1, 1)  # checked
    if page.compression in _WITHOUT_PREDICTOR:
        page.predictor = 1  # as libtiff does, whatever the tag says
    if page.compression in _CODES_OF_LIBTIFF:
        _unpack(file, page)
    # (separate samples, depth, H, W, contiguous samples)
    array: np.ndarray
    if page.predictor == 1:
        array = page.asarray(maxworkers=1).reshape(page.shaped)
    else:  # which tifffile undoes by segments alone
        array = np.zeros(page.shaped, page.dtype)
        for part, (plane, _, top, left, _), _ in page.segments(maxworkers=1):
            if part is None:
                continue  # of an empty segment
            to = array[plane, 0, top : top + part.shape[1], left : left + part.shape[2]]
            to[:] = part[0, : to.shape[0], : to.shape[1]]
    planes = array[:, 0]
    array = planes[0] if len(planes) == 1 else np.moveaxis(planes[..., 0], 0, -1)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _unpack(file: io.BytesIO, page: tifffile.TiffPage) -> None:
    """Undo the code of bytes: put them at the file's end, and make them the page's segments.

    libtiff gets each plane as a grey image, whose rows are as many bytes as those of the page.
    """
    width = (page.tilewidth if page.is_tiled else page.imagewidth) * page.bitspersample // 8
    width *= page.samplesperpixel if page.planarconfig == 1 else 1
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    planes = page.samplesperpixel if page.planarconfig != 1 else 1
    in_plane = math.prod(page.chunked) // planes
    height = rows * in_plane if page.is_tiled else page.imagelength
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    content = bytes(file.getbuffer())
    offsets, counts = [], []
    for plane in range(planes):
        packed = [content[o : o + n] for o, n in places[plane * in_plane : (plane + 1) * in_plane]]
        grey = TiffImageFile(_grey_tiff(packed, page, width, height, rows))
        with quiet(_LIBTIFF_LINE):
            grey.load()
        position = file.seek(0, os.SEEK_END)
        file.write(np.asarray(grey).tobytes())
        for top in range(0, height, rows):
            offsets.append(position + width * top)
            counts.append(width * min(rows, height - top))
    page.compression, page.fillorder = 1, 1
    page.dataoffsets, page.databytecounts = tuple(offsets), tuple(counts)


def _grey_tiff(
    packed: list[bytes], page: tifffile.TiffPage, width: int, height: int, rows: int
) -> io.BytesIO:
    sizes = [len(part) for part in packed]
    entries = [
        *((256, (width,)), (257, (height,)), (258, (8,)), (259, (int(page.compression),))),
        *((262, (1,)), (266, (int(page.fillorder),))),
        (273, tuple(itertools.accumulate(sizes[:-1], initial=8))),
        *((277, (1,)), (278, (rows,)), (279, tuple(sizes))),
    ]
    arrays = 8 + sum(sizes)
    start = arrays + 2 * 4 * len(sizes)
    head, tail = struct.pack("<I", start), struct.pack("<H", len(entries))
    numbers = b""
    for tag, values in entries:
        value = values[0] if len(values) == 1 else arrays + len(numbers)
        numbers += struct.pack(f"<{len(values)}I", *values) if len(values) > 1 else b""
        tail += struct.pack("<HHII", tag, _LONG, len(values), value)
    numbers = numbers.ljust(start - arrays, b"\0")
    return io.BytesIO(b"".join([b"II*\0", head, *packed, numbers, tail, bytes(4)]))


def _by_pillow(content: bytes, page: tifffile.TiffPage, profile: bytes) -> TiffPixels:
    """A whole file: of one, two or four bits, of a code of images, or a plain one."""
    image = TiffImageFile(io.BytesIO(content))
    with quiet(_LIBTIFF_LINE):
        image.load()
    # Pillow turns it while it loads, or not, by its release; the tag is gone then.
    orientation = image.getexif().get(_ORIENTATION, 1)
    if image.mode == "CMYK":
        pixels, note = cmyk_to_srgb(image, profile)
        return TiffPixels(pixels, orientation, True, (note,))
    mode = {"1": "L", "P": "RGB", "YCbCr": "RGB", "LA": "RGBA"}.get(image.mode, image.mode)
    if mode not in ("L", "RGB", "RGBA"):
        raise Refused(f"pixels of Pillow's mode {image.mode}", "Convert it to RGB.")
    plain = image if mode == image.mode else image.convert(mode)
    return TiffPixels(np.asarray(plain), orientation, False, ())


def _unmultiplied(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours that were multiplied by alpha, as they were before, rounded; black where it is 0."""
    white = np.iinfo(colour.dtype).max
    result = np.zeros(colour.shape, colour.dtype)
    for row, above, below in zip(result, colour, alpha, strict=True):
        whole = (above.astype(np.uint64) * white + below // 2) // np.maximum(below, 1)
        row[:] = np.where(below > 0, np.minimum(whole, white), 0)
    return result


def _of_palette(index: np.ndarray, colours: object) -> np.ndarray:
    table = np.asarray(colours, np.uint16).reshape(3, -1).T
    # A value of 8 bits is there times 256 or 257, and of some writers as it is.
    return (table >> 8 if table.max() > 255 else table).astype(np.uint8)[index]
