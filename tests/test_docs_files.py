"""What docs/files.md says of image files is what happens to them."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from esc_arch.data.prepare import prepare, settings
from esc_arch.imaging.codecs import SUFFIXES

DOCUMENT = Path(__file__).parents[1] / "docs" / "files.md"
HEIGHT, WIDTH = 16, 24
GREY = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)
RGBA = np.random.default_rng(1).integers(0, 2**16, (HEIGHT, WIDTH, 4), dtype=np.uint16)
GREY8, RGBA8 = (GREY >> 8).astype(np.uint8), (RGBA >> 8).astype(np.uint8)


class Row(NamedTuple):
    """A line of the table of images."""

    format: str
    pixels: str
    treatment: str
    becomes: str


def rows() -> list[Row]:
    text = DOCUMENT.read_text("utf-8").split("## Image files")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()
             if line.startswith("|")]  # fmt: skip
    return [Row(*row) for row in cells[2:]]


def png(depth: int, colour_type: int, samples: np.ndarray, *more: bytes) -> bytes:
    """By the specification: rows without filter, samples of some bits packed into bytes.

    Args:
        more: chunks before the pixels.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = samples.reshape(HEIGHT, -1) >> (16 - depth)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(HEIGHT, -1), axis=-1)
    data = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour_type, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    chunks = b"".join(chunk(part[:4], part[4:]) for part in more)
    return head + chunks + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def key(samples: np.ndarray, depth: int) -> bytes:
    """A tRNS chunk that makes the first pixel transparent."""
    first = np.atleast_1d(samples[0, 0]) >> (16 - depth)
    return b"tRNS" + first.astype(">u2").tobytes()


def pillow(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


RGB8 = Image.fromarray(RGBA8[..., :3])
CMYK8 = Image.fromarray(RGBA8, "CMYK")
PALETTE = RGB8.quantize(200)
FRAMES = {"save_all": True, "append_images": [RGB8.transpose(Image.Transpose.ROTATE_180)]}
MADE: dict[tuple[str, str], Callable[[], bytes]] = {
    ("PNG", "grey, 1 bit"): lambda: png(1, 0, GREY),
    ("PNG", "grey, 2 bits"): lambda: png(2, 0, GREY),
    ("PNG", "grey, 4 bits"): lambda: png(4, 0, GREY),
    ("PNG", "grey, 8 bits"): lambda: png(8, 0, GREY),
    ("PNG", "grey, 16 bits"): lambda: png(16, 0, GREY),
    ("PNG", "grey with a transparent value, 1 to 8 bits"): lambda: png(4, 0, GREY, key(GREY, 4)),
    ("PNG", "grey with a transparent value, 16 bits"): lambda: png(16, 0, GREY, key(GREY, 16)),
    ("PNG", "grey and alpha, 8 bits"): lambda: png(8, 4, RGBA[..., 2:]),
    ("PNG", "grey and alpha, 16 bits"): lambda: png(16, 4, RGBA[..., 2:]),
    ("PNG", "RGB, 8 bits"): lambda: png(8, 2, RGBA[..., :3]),
    ("PNG", "RGB, 16 bits"): lambda: png(16, 2, RGBA[..., :3]),
    ("PNG", "RGB with a transparent colour, 8 bits"):
        lambda: png(8, 2, RGBA[..., :3], key(RGBA[..., :3], 8)),
    ("PNG", "RGB with a transparent colour, 16 bits"):
        lambda: png(16, 2, RGBA[..., :3], key(RGBA[..., :3], 16)),
    ("PNG", "RGBA, 8 bits"): lambda: png(8, 6, RGBA),
    ("PNG", "RGBA, 16 bits"): lambda: png(16, 6, RGBA),
    ("PNG", "palette"): lambda: pillow(PALETTE, "PNG"),
    ("PNG", "palette with transparency"): lambda: pillow(PALETTE, "PNG", transparency=3),
    ("PNG", "several frames (APNG)"): lambda: pillow(RGB8, "PNG", **FRAMES),
    ("JPEG", "grey"): lambda: pillow(Image.fromarray(GREY8), "JPEG"),
    ("JPEG", "RGB"): lambda: pillow(RGB8, "JPEG"),
    ("JPEG", "CMYK"): lambda: pillow(CMYK8, "JPEG"),
    ("JPEG", "two pictures in one file (MPO of phones)"): lambda: pillow(RGB8, "MPO", **FRAMES),
    ("BMP", "RGB, 24 bits"): lambda: pillow(RGB8, "BMP"),
    ("BMP", "palette"): lambda: pillow(PALETTE, "BMP"),
    ("WebP", "RGB"): lambda: pillow(RGB8, "WEBP", lossless=True),
    ("WebP", "RGBA"): lambda: pillow(Image.fromarray(RGBA8), "WEBP", lossless=True, exact=True),
    ("WebP", "several frames"): lambda: pillow(RGB8, "WEBP", **FRAMES),
    ("TIFF", "grey, 8 bits"): lambda: tiff(GREY8),
    ("TIFF", "grey, 16 bits"): lambda: tiff(GREY),
    ("TIFF", "grey, white is zero, 8 bits"): lambda: tiff(GREY8, photometric="miniswhite"),
    ("TIFF", "grey, white is zero, 16 bits"): lambda: tiff(GREY, photometric="miniswhite"),
    ("TIFF", "RGB, 8 bits"): lambda: tiff(RGBA8[..., :3], photometric="rgb"),
    ("TIFF", "RGB, 16 bits"): lambda: tiff(RGBA[..., :3], photometric="rgb"),
    ("TIFF", "RGB, 16 bits, channels as planes"): lambda: tiff(
        np.moveaxis(RGBA[..., :3], -1, 0), photometric="rgb", planarconfig="separate"),
    ("TIFF", "RGB, 16 bits, big-endian"):
        lambda: tiff(RGBA[..., :3], photometric="rgb", byteorder=">"),
    ("TIFF", "RGB, 8 bits, BigTIFF"): lambda: tiff(RGBA8[..., :3], photometric="rgb", bigtiff=True),
    ("TIFF", "RGBA, 8 bits"):
        lambda: tiff(RGBA8, photometric="rgb", extrasamples=["unassalpha"]),
    ("TIFF", "RGBA, 16 bits"):
        lambda: tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]),
    ("TIFF", "RGBA, 16 bits, premultiplied"): lambda: tiff(
        np.minimum(RGBA, RGBA[..., 3:]), photometric="rgb", extrasamples=["assocalpha"]),
    ("TIFF", "RGB and an unnamed channel, 16 bits"):
        lambda: tiff(RGBA, photometric="rgb", extrasamples=["unspecified"]),
    ("TIFF", "palette"): lambda: pillow(PALETTE, "TIFF"),
    ("TIFF", "CMYK, 8 bits"): lambda: tiff(RGBA8, photometric="separated"),
    ("TIFF", "L\\*a\\*b\\*, 8 bits"): lambda: tiff(RGBA8[..., :3], photometric="cielab"),
    ("TIFF", "floating point"): lambda: tiff(GREY.astype(np.float32)),
    ("TIFF", "whole numbers of 32 bits"): lambda: tiff(GREY.astype(np.uint32)),
    ("TIFF", "signed whole numbers"): lambda: tiff(GREY.astype(np.int16)),
    ("TIFF", "several pages"): lambda: tiff(np.stack([GREY8] * 2), photometric="minisblack"),
    ("GIF under another name", "any"): lambda: pillow(PALETTE, "GIF"),
    ("AVIF under another name", "any"): lambda: pillow(RGB8, "AVIF"),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """All images as `basicsr data prepare` makes HR of them, by name; and what it skipped."""
    folder = tmp_path_factory.mktemp("files") / "images"
    folder.mkdir()
    for number, row in enumerate(rows()):
        suffix = {"TIFF": ".tif", "JPEG": ".jpg"}.get(row.format, f".{row.format.lower()}")
        suffix = suffix if row.format in ("PNG", "JPEG", "BMP", "WebP", "TIFF") else ".png"
        (folder / f"{number:03d}{suffix}").write_bytes(MADE[row[:2]]())
    done = prepare(folder, folder.parent / "made", settings([]), jobs=1)
    return folder.parent / "made" / "HR", done.skipped


def test_the_names_of_images_are_those_that_are_walked():
    line = next(line for line in DOCUMENT.read_text("utf-8").splitlines() if ".jpg" in line)
    assert set(re.findall(r"\.\w+", line.split("`")[1])) == SUFFIXES


def test_the_table_has_every_kind_once():
    assert [row[:2] for row in rows()] == list(MADE)


@pytest.mark.parametrize("number", range(len(MADE)), ids=lambda n: "-".join(list(MADE)[n]))
def test_images_are_treated_as_the_document_says(prepared, number):
    row = rows()[number]
    folder, skipped = prepared
    file = folder / f"{number:03d}.png"
    told = [text for text in skipped if f"{number:03d}." in text]
    if row.treatment == "refused":
        assert len(told) == 1 and re.search(row.becomes, told[0]), told
        assert not file.exists()
        return
    assert not told
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    channels = {1: "grey", 3: "RGB", 4: "RGBA"}[1 if image.ndim == 2 else image.shape[2]]
    assert f"{channels}, {image.dtype.itemsize * 8} bits" == row.becomes
    assert image.shape[:2] == (HEIGHT, WIDTH)
    if row.treatment == "kept" and row.format != "JPEG":
        # Random samples, so that nothing but these very ones is right.
        of_grey, of_rgba = (GREY8, RGBA8) if image.dtype == np.uint8 else (GREY, RGBA)
        expected = of_grey if image.ndim == 2 else of_rgba[..., : image.shape[2]]
        found = image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]
        np.testing.assert_array_equal(found, expected)
