"""Image files of every bad and every odd kind, small ones unless their size is the point.

Shapes: pixels are (H, W, C).
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

SIDE = 32


class Odd(NamedTuple):
    """An image file.

    Attributes:
        name: of the file.
        content: makes it; None for a link to nothing.
        is_bad: whether it is to be refused, and named, rather than used.
        says: what the refusal has to say, or, of a good one, its mode when it is enlarged.
        size: width and height of a good one.
    """

    name: str
    content: Callable[[], bytes] | None
    is_bad: bool
    says: str
    size: tuple[int, int] = (SIDE, SIDE)


def noise(channels: int = 3, dtype: type = np.uint8, side: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng(channels)
    shape = (side, side) if channels == 1 else (side, side, channels)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(extension: str, channels: int = 3, dtype: type = np.uint8, side: int = SIDE) -> bytes:
    return cv2.imencode(extension, noise(channels, dtype, side))[1].tobytes()


def by_pillow(mode: str, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise()).convert(mode).save(file, image_format, **options)
    return file.getvalue()


def cut(extension: str) -> bytes:
    content = encoded(extension)
    return content[: len(content) * 2 // 3]


def flipped(content: bytes, part: float) -> bytes:
    """One bit is another, at this part of the file."""
    changed = bytearray(content)
    changed[int(part * len(content))] ^= 0x10
    return bytes(changed)


def one_colour(side: int) -> bytes:
    """A whole PNG of one bit a pixel, row by row, so that it takes no memory to make."""
    row = b"\0" * (1 + -(-side // 8))
    packer = zlib.compressobj(1)
    packed = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return _png((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))


def only_header(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return _png((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


def animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(noise()[::step]) for step in (1, -1)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    return file.getvalue()


ODD = (
    Odd("cut_png.png", lambda: cut(".png"), True, "damaged"),
    Odd("cut_jpg.jpg", lambda: cut(".jpg"), True, "damaged"),
    Odd("cut_webp.webp", lambda: cut(".webp"), True, "damaged|not read|identify|decoder"),
    Odd("cut_tiff.tiff", lambda: cut(".tiff"), True, "damaged|not read|identify|decoder"),
    Odd("cut_bmp.bmp", lambda: cut(".bmp"), True, "damaged"),
    Odd("cut16_png.png", lambda: encoded(".png", 3, np.uint16)[:900], True, "damaged"),
    Odd("cut16_tiff.tiff", lambda: encoded(".tiff", 3, np.uint16)[:900], True, "damaged"),
    Odd("flipped.png", lambda: flipped(encoded(".png"), 0.5), True, "damaged"),
    Odd("flipped16.png", lambda: flipped(encoded(".png", 3, np.uint16), 0.5), True, "damaged"),
    Odd("empty.png", lambda: b"", True, "empty"),
    Odd("text.png", lambda: b"a text " * 9, True, "not read|identify"),
    Odd("cmyk.jpg", lambda: by_pillow("CMYK", "JPEG"), False, "RGB"),
    Odd("float.tiff", lambda: by_pillow("F", "TIFF"), True, "floating point of 32 bits"),
    Odd("gif.png", lambda: by_pillow("P", "GIF"), True, "a GIF"),
    Odd("animated.webp", animated, True, "2 of them"),
    Odd("header_of_20000.png", lambda: only_header(20_000), True, "20000x20000"),
    Odd("real_20000.png", lambda: one_colour(20_000), True, "20000x20000"),
    Odd("gone.png", None, True, "No such file"),
    Odd("one_pixel.png", lambda: cv2.imencode(".png", noise()[:1, :1])[1].tobytes(), False, "RGB",
        (1, 1)),
    Odd("grey.png", lambda: encoded(".png", 1), False, "L"),
    Odd("rgba.png", lambda: encoded(".png", 4), False, "RGBA"),
    Odd("deep.png", lambda: encoded(".png", 3, np.uint16), False, "RGB"),
    Odd("deep_grey.tiff", lambda: encoded(".tiff", 1, np.uint16), False, "I;16"),
    Odd("palette.png", lambda: by_pillow("P", "PNG"), False, "RGB"),
    Odd("one_bit.png", lambda: by_pillow("1", "PNG"), False, "L"),
    Odd("grau mit Lücke und 漢字.png", lambda: encoded(".png"), False, "RGB"),
    Odd("turned.jpg", lambda: by_pillow("RGB", "JPEG", exif=_turned()), False, "RGB"),
)  # fmt: skip


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
