"""Decoding and encoding of image files, and their headers.

Shapes: images are (H, W) for grey, (H, W, 3) for BGR and (H, W, 4) for BGRA, the order of
OpenCV and BasicSR; uint8 or uint16.
"""

import io
import os
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from esc_arch.errors import UserError, first_line, listed
from esc_arch.files import open_regular, read_regular, special_kind
from esc_arch.imaging.colour import cmyk_to_srgb
from esc_arch.imaging.kinds import Refused, kind_of
from esc_arch.imaging.quiet import quiet
from esc_arch.machine import available_bytes

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
# Not by Image.open, which has a limit of its own that holds for the whole process.
_OPENERS: dict[bytes, Callable[[IO[bytes]], Image.Image]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": jpeg_factory,
    b"RIFF": WebPImageFile,
    b"BM": BmpImageFile,
}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of the last two, sizes have 64 bits
_EXPECTED = "an image of 8 or 16 bits a channel (PNG, JPEG, BMP, TIFF, WebP)"
_AGAIN = "Copy or make it again."
_AS_PNG = "Save it as PNG or JPEG, or leave it out."
# In errors of Pillow, of files that may be whole.
_UNSUPPORTED = re.compile("unsupported|not supported|cannot handle", re.IGNORECASE)
_LIBPNG_LINE = re.compile(rb"libpng (?:error|warning): ")
_SMALLER = "Close other programs, or cut the image into pieces."
_CHUNK = 1 << 20
_SHOWN = 10

# A tenth faster than OpenCV's default, and smaller.  Older releases lack the filters.
PNG_OPTIONS: tuple[int, ...] = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    PNG_OPTIONS += (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG)

# Smaller images are decoded without asking for the memory.
_SMALL = 1 << 25  # pixels
# While an image is decoded, it is there up to so many times.
_COPIES = 3
# Of more pixels than the first, each byte of a file may stand for the second: in a flat photo it
# does for 170 as JPEG and 350 as PNG, in a page of text in black and white for 500.
_BOMB_PIXELS, _MOST_PIXELS_A_BYTE = 1 << 27, 1000

_EXIF_ORIENTATION = 0x0112
_PNG_BIT_DEPTH, _PNG_COLOUR_TYPE = 24, 25  # offsets in the file
_GREY, _TRUECOLOUR = 0, 2  # colour types of PNG
# Where Pillow finds the orientation of a PNG without decoding it, or that there is one.
_PNG_ORIENTED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")

# Pillow modes that OpenCV's order of channels can hold, and what they become first.
_AS_MODE = {
    **{mode: mode for mode in ("L", "RGB", "RGBA", "I;16", "I;16B")},
    **{"1": "L", "P": "RGB", "LA": "RGBA", "La": "RGBA", "PA": "RGBA", "CMYK": "RGB"},
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
    """An image that does not fit the memory, or has too few bytes for so many pixels."""


class Decoded(NamedTuple):
    """Pixels of an image file.

    Attributes:
        image: as the head of this file says.
        is_stored_so: whether the file is a PNG of just these pixels, so that a copy of its
            bytes is as good as encoding them again.
        is_srgb: whether they were converted to sRGB, so that the file's profile is not true of
            them.
        notes: what was converted or left out, for the user; the same text for the same kind.
    """

    image: np.ndarray
    is_stored_so: bool
    is_srgb: bool = False
    notes: tuple[str, ...] = ()


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
        shape: upright; 0 channels of pixels of another format that are no 1, 3 or 4 of 8 or 16
            bits.
    """

    format: str
    shape: Shape


def find_images(
    folder: str | os.PathLike[str], note: Callable[[str], object] | None = None
) -> list[Path]:
    """All image files below a folder, by their extension, sorted; hidden ones are left out.

    Args:
        note: takes lines on those of kinds that are not read, and on folders that could not be
            searched.

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
    errors: list[OSError] = []
    found = sorted(walk_images(folder, onerror=errors.append, unread=unread.append))
    if note is not None:
        for error in errors:
            note(f"note: {error.filename}: could not be searched: {error.strerror}")
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
        content = read_regular(path)
    return decode(content, path).image


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of an image file, by the rules of :func:`decode`.

    A file whose name has none of SUFFIXES may be of any format that Pillow knows.

    Raises:
        TooManyPixels: for an image that :func:`decode` refuses by its size.
        ImageError: when it is no image, or one that :func:`decode` refuses by its header.
    """
    is_own = os.path.splitext(path)[1].lower() in SUFFIXES
    with _naming(path), open_regular(path) as file:
        length = os.fstat(file.fileno()).st_size
        if not length:
            raise _error(path, "an empty file")
        return _header(file, length, path, None if is_own else Image.open)


def shape_of(content: bytes | memoryview, name: str | os.PathLike[str]) -> Shape:
    """The shape that :func:`decode` gives, by the header alone.

    Args:
        content: the whole file.
        name: what error messages call it.

    Raises:
        ImageError: when it is no image, or one that :func:`decode` refuses by its header.
    """
    with _naming(name):
        header = _header(io.BytesIO(content), len(content), name, None)
    if not header.shape.channels:
        raise _error(name, "another kind of pixels", "Convert it to RGB.")
    return header.shape


def _header(
    file: IO[bytes],
    length: int,
    name: str | os.PathLike[str],
    other: Callable[[IO[bytes]], Image.Image] | None,
) -> Header:
    """
    Args:
        other: opens files of other formats.
    """
    start = file.read(8)
    file.seek(0)
    if start.startswith(_TIFF_STARTS):
        from esc_arch.imaging.tiff import tiff_size

        size = tiff_size(file)
        _check_size(name, size.width, size.height, size.pixel_bytes, length)
        sides = _turned_sides(size.width, size.height, size.orientation)
        return Header("TIFF", Shape(*sides, size.channels))
    is_own = start.startswith(tuple(_OPENERS))
    with _open(file, length, name) if is_own or other is None else other(file) as opened:
        mode = "RGBA" if "transparency" in opened.info else _AS_MODE.get(opened.mode, "")
        # Looking for an orientation after the pixels would decode them.
        is_png = opened.format == "PNG"
        has_orientation = not is_png or any(key in opened.info for key in _PNG_ORIENTED)
        orientation = _orientation(opened) if has_orientation else 1
        sides = _turned_sides(opened.width, opened.height, orientation)
        return Header(opened.format or "", Shape(*sides, _CHANNELS.get(mode, 0)))


def _turned_sides(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Of the upright image, height first."""
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def decode(content: bytes, name: str | os.PathLike[str]) -> Decoded:
    """Decode an image file, turned as its EXIF orientation says.

    Palettes become RGB, grey with transparency becomes RGBA, one bit becomes eight; CMYK, YCbCr
    and L*a*b* become RGB; colours that are multiplied by alpha are divided by it.

    Args:
        content: the whole file.
        name: what error messages call it.

    Raises:
        ImageError: when it is no image, damaged or cut off, holds several images, or has
            another kind of pixels (floating point, ...).
    """
    return decode_opened(content, name)[0]


def decode_opened(
    content: bytes, name: str | os.PathLike[str]
) -> tuple[Decoded, Image.Image | None]:
    """Decode as :func:`decode` does, and give Pillow's image too, for its metadata.

    There is none of a TIFF, as Pillow does not open them all.
    """
    with _naming(name, content):
        if content.startswith(_TIFF_STARTS):
            return _decode_tiff(content, name), None
        opened = _open(io.BytesIO(content), len(content), name)
        return _decode(opened, content, name), opened


@contextmanager
def _naming(name: str | os.PathLike[str], content: bytes = b"") -> Iterator[None]:
    """Turn whatever a decoder raises for a garbled file into an error that names it.

    Args:
        content: the whole file, to say what it is; read where it is not given.
    """
    try:
        with warnings.catch_warnings():
            # Of large images and odd metadata; what matters raises.
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except Refused as error:
        raised = _error(name, error.found, error.advice)
    except UnidentifiedImageError:
        raised = _unknown(name, content)
    except MemoryError:
        raised = TooManyPixels(
            f"{name}: expected an image that fits the free memory; found a larger one. {_SMALLER}",
            "more pixels than the free memory holds",
        )
    except Image.DecompressionBombError as error:  # of a format that is not decoded here
        raised = TooManyPixels(f"{name}: expected fewer pixels; found: {error}", first_line(error))
    except Exception as error:  # of any kind
        if isinstance(error, OSError) and error.strerror:
            raised = _error(name, error.strerror)
        else:
            text = first_line(error)
            if _UNSUPPORTED.search(text):
                raised = _error(name, f"one of a kind that is not read ({text})", _AS_PNG)
            else:
                raised = _error(name, f"a damaged one ({text})")
    else:
        return
    raise raised


def _error(name: str | os.PathLike[str], found: str, advice: str = _AGAIN) -> ImageError:
    return ImageError(f"{name}: expected {_EXPECTED}; found {found}. {advice}", found)


def _unknown(name: str | os.PathLike[str], content: bytes) -> ImageError:
    if not content:
        with suppress(OSError), open(name, "rb") as file:
            content = file.read(1 << 16)
    kind = kind_of(content)
    if not kind:
        return _error(name, "a file that does not read as an image")
    return _error(name, kind, _AS_PNG)


def _open(file: IO[bytes], length: int, name: str | os.PathLike[str]) -> Image.Image:
    if not length:
        raise _error(name, "an empty file")
    start = file.read(8)
    file.seek(0)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        raise UnidentifiedImageError
    opened = opener(file)
    # Photos of some phones are MPO: a JPEG with a second picture for the device's own use.
    frames = getattr(opened, "n_frames", 1)
    if opened.format != "MPO" and frames > 1:
        raise _error(name, f"{frames} of them in one file", "Save each as a file of its own.")
    pixel_bytes = len(opened.getbands()) if opened.mode != "RGB" else 4  # as Pillow holds it
    _check_size(name, opened.width, opened.height, pixel_bytes, length)
    return opened


def _check_size(
    name: str | os.PathLike[str], width: int, height: int, pixel_bytes: int, length: int
) -> None:
    """Refuse what does not fit the memory, and what only pretends to be so large.

    Args:
        pixel_bytes: of a pixel in memory.
        length: of the file in bytes.
    """
    pixels = width * height
    if pixels < _SMALL:
        return
    found = f"{width}x{height} pixels"
    if pixels > _BOMB_PIXELS and pixels > _MOST_PIXELS_A_BYTE * length:
        found += f" in a file of {length:,} bytes"
        raise TooManyPixels(
            f"{name}: expected at most {_MOST_PIXELS_A_BYTE} pixels for each byte of so large an "
            f"image; found {found}, as a decompression bomb has. If it is meant to be so large, "
            "cut it into pieces.",
            found,
        )
    need, room = pixels * pixel_bytes * _COPIES, available_bytes()
    if need > room:
        raise TooManyPixels(
            f"{name}: expected an image that is decoded in the {room / 2**30:.1f} GiB of free "
            f"memory; found {found}, which take {need / 2**30:.1f} GiB. {_SMALLER}",
            f"{found}, which do not fit the free memory",
        )


def _decode_tiff(content: bytes, name: str | os.PathLike[str]) -> Decoded:
    from esc_arch.imaging.tiff import decode_tiff, tiff_size

    size = tiff_size(io.BytesIO(content))
    _check_size(name, size.width, size.height, size.pixel_bytes, len(content))
    pixels, orientation, is_srgb, notes = decode_tiff(content)
    image = _upright(_as_bgr(pixels), orientation)
    return Decoded(np.ascontiguousarray(image), False, is_srgb, notes)


def _decode(opened: Image.Image, content: bytes, name: str | os.PathLike[str]) -> Decoded:
    is_png = opened.format == "PNG"
    notes: tuple[str, ...] = ()
    if is_png:
        # Decoders overlook a changed byte; the checksums of the chunks do not.
        PngImageFile(io.BytesIO(content)).verify()
    if is_png and content[_PNG_BIT_DEPTH] == 16 and not opened.mode.startswith("I;16"):
        # Pillow has no such mode.
        image, converted = _by_opencv(_checked_deep_png(opened, content), name), False
    elif opened.mode == "CMYK":
        rgb, note = cmyk_to_srgb(opened, opened.info.get("icc_profile") or b"")
        image = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)
        converted, notes = True, (note,)
    else:
        image, converted = _by_pillow(opened, name)
    if is_png and content[_PNG_COLOUR_TYPE] in (_GREY, _TRUECOLOUR):
        key = opened.info.get("transparency")
        if key is not None:
            image, converted = _keyed(image, key, content[_PNG_BIT_DEPTH]), True
    orientation = _orientation(opened)
    as_stored = is_png and not converted and orientation == 1
    turned = np.ascontiguousarray(_upright(image, orientation))
    return Decoded(turned, as_stored, bool(notes), notes)


def _keyed(image: np.ndarray, key: int | tuple[int, int, int], depth: int) -> np.ndarray:
    """With alpha: 0 where a pixel has the colour of a PNG's key, which is of the file's depth."""
    values = np.atleast_1d(key)[::-1] & (1 << depth) - 1
    if depth < 8:
        values = values * (255 // ((1 << depth) - 1))
    colour = np.atleast_3d(image)[..., :3]
    white = np.iinfo(image.dtype).max
    alpha = np.where((colour == values.astype(image.dtype)).all(-1), 0, white)
    colours = [colour[..., i % colour.shape[2]] for i in range(3)]
    return np.stack([*colours, alpha.astype(image.dtype)], -1)


def _checked_deep_png(opened: Image.Image, content: bytes) -> bytes:
    """A PNG of the chunks of pixels alone, whose data are whole.

    OpenCV's decoder writes to the standard error output of whatever it does not like.

    Raises:
        ValueError: when the data do not hold the pixels.
    """
    kept, data, position = [content[:8]], zlib.decompressobj(), 8
    pixel_bytes = 2 * {2: 3, 4: 2, 6: 4}[content[_PNG_COLOUR_TYPE]]
    expected = opened.height * opened.width * pixel_bytes  # and a byte a row, or a few more
    found = 0
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(content[position:end])
        if kind == b"IDAT" and not data.eof:
            part: bytes = content[position + 8 : end - 4]
            while part and found <= 2 * expected + 2**20:
                found += len(data.decompress(part, _CHUNK))
                part = data.unconsumed_tail
        position = end
    found += len(data.flush())
    if found < expected:
        raise ValueError(f"{found} bytes of pixels instead of {expected}")
    return b"".join(kept)


def _by_opencv(content: bytes, name: str | os.PathLike[str]) -> np.ndarray:
    with quiet(_LIBPNG_LINE):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise ValueError("its pixels cannot be decoded")
    if image.dtype != np.uint16 or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise _error(name, f"{image.dtype} {image.shape}", "Convert it to RGB.")
    return image


def _by_pillow(opened: Image.Image, name: str | os.PathLike[str]) -> tuple[np.ndarray, bool]:
    """The pixels, and whether they were converted to another mode."""
    opened.load()
    mode = _AS_MODE.get(opened.mode)
    if mode is None:
        raise _error(name, f"mode {opened.mode}", "Convert it to RGB.")
    if opened.mode == "P" and "transparency" in opened.info:
        mode = "RGBA"
    converted = mode != opened.mode
    if converted and mode == "RGB" and "transparency" in opened.info:
        opened = opened.copy()
        del opened.info["transparency"]
    pixels = np.asarray(opened.convert(mode) if converted else opened)
    # Pillow's own conversion from the other byte order cuts values off at 255.
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return _as_bgr(pixels), converted


def _as_bgr(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels
    code = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    return cv2.cvtColor(np.ascontiguousarray(pixels), code)


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
