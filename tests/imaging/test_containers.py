"""Formats, depths, channels, layouts, transparency and turning, against other writers and readers.

TIFF files are written by tifffile, the packed segments of some by Pillow's libtiff; PNG files by
the specification.  What they should become is computed from the pixels that were written.
"""

import io
import os
import re
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from esc_arch.errors import UserError
from esc_arch.imaging.codecs import (
    ImageError,
    TooManyPixels,
    decode,
    read_header,
    read_image,
    shape_of,
)
from tests.faults.bad_images import one_colour, only_header
from tests.imaging.test_codecs import as_opencv, png, stored

CODES = {None: 1, "zlib": 8, "lzma": 34925, "tiff_lzw": 5, "packbits": 32773, "zstd": 50000}


def noise(seed: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    # Runs and ends of the range, which codes of bytes treat apart.
    values[: shape[0] // 3] = rng.choice([0, np.iinfo(dtype).max], (shape[0] // 3, *shape[1:]))
    return values


def packed(rows: np.ndarray, code: str) -> bytes:
    """A segment's bytes by libtiff: those of the only strip of a grey image."""
    file = io.BytesIO()
    flat = rows.reshape(rows.shape[0], -1)
    Image.fromarray(flat).save(file, "TIFF", compression=code, strip_size=2**30)
    file.seek(0)
    with tifffile.TiffFile(file) as opened:
        page = opened.pages.first
        assert len(page.dataoffsets) == 1
        start = page.dataoffsets[0]
        return file.getvalue()[start : start + page.databytecounts[0]]


def segments(image, code, planar, order, predictor, tile, rows):
    """The packed segments of (H, W, C), in the order of the file."""
    planes = (
        [image[..., c : c + 1] for c in range(image.shape[2])] if planar == "separate" else [image]
    )
    height, width = tile or (rows, image.shape[1])
    for plane in planes:
        for top in range(0, image.shape[0], height):
            for left in range(0, image.shape[1], width):
                part = plane[top : top + height, left : left + width]
                if tile:
                    missing = [(0, n - m) for n, m in zip(tile, part.shape, strict=False)]
                    part = np.pad(part, [*missing, (0, 0)])
                if predictor:
                    part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1]))
                raw = part.astype(part.dtype.newbyteorder(order))
                yield packed(np.frombuffer(raw.tobytes(), np.uint8).reshape(len(part), -1), code)


@st.composite
def layouts(draw):
    channels = draw(st.sampled_from([1, 2, 3, 4]))
    code = draw(st.sampled_from(list(CODES)))
    with_alpha = channels in (2, 4)
    return {
        "dtype": draw(st.sampled_from([np.uint8, np.uint16])),
        "channels": channels,
        "extra": draw(st.sampled_from(["unassalpha", "assocalpha", "unspecified"]))
        if with_alpha
        else None,
        "code": code,
        "planar": draw(st.sampled_from(["contig", "separate"])) if channels > 1 else "contig",
        "predictor": code not in (None, "packbits") and draw(st.booleans()),
        "order": draw(st.sampled_from("<>")),
        "big": draw(st.booleans()),
        "tile": draw(st.sampled_from([None, (16, 32)])),
        "rows": draw(st.sampled_from([1, 5, 100])),
        "white_is_zero": channels < 3 and draw(st.booleans()),
        "orientation": draw(st.sampled_from([1, 1, 2, 3, 4, 5, 6, 7, 8])),
        "height": draw(st.integers(1, 40)),
        "width": draw(st.integers(1, 40)),
        "seed": draw(st.integers(0, 9)),
    }


def tiff_of(
    image,
    *,
    extra,
    code,
    planar,
    predictor,
    order,
    big,
    tile,
    rows,
    white_is_zero,
    orientation,
    **_,
):
    file = io.BytesIO()
    channels = image.shape[2]
    kind = "rgb" if channels > 2 else "miniswhite" if white_is_zero else "minisblack"
    options = {
        **{"photometric": kind, "byteorder": order, "bigtiff": big, "tile": tile, "metadata": None},
        **{"predictor": predictor or None, "extrasamples": [extra] if extra else None},
        "planarconfig": planar if channels > 1 else None,
        "rowsperstrip": None if tile else min(rows, len(image)),
        "extratags": [(274, 3, 1, orientation, True)],
    }
    data = np.moveaxis(image, -1, 0) if planar == "separate" else image
    data = data[..., 0] if channels == 1 else data
    if code in (None, "zlib", "lzma"):
        tifffile.imwrite(file, data, compression=code, **options)
    else:
        count = min(rows, len(image))
        parts = segments(image, code, planar, order, predictor, tile, count)
        tifffile.imwrite(
            file, parts, shape=data.shape, dtype=data.dtype, compression="zlib", **options
        )
        return with_code(file, order, CODES[code])
    return file.getvalue()


def with_code(file: io.BytesIO, order: str, code: int) -> bytes:
    """The file with another number of its code, which tifffile alone cannot write."""
    file.seek(0)
    with tifffile.TiffFile(file) as opened:
        place = opened.pages.first.tags[259].valueoffset
    content = bytearray(file.getvalue())
    struct.pack_into(order + "H", content, place, code)
    return bytes(content)


def expected_of(image: np.ndarray, extra: str | None, white_is_zero: bool) -> np.ndarray:
    """BGR or BGRA as :func:`decode` is to give it, by exact fractions where alpha divides."""
    white = int(np.iinfo(image.dtype).max)
    colours = 1 if image.shape[2] < 3 else 3
    colour, alpha = image[..., :colours], image[..., colours:]
    if extra == "assocalpha":
        divided = colour.copy()
        for place in np.ndindex(colour.shape):
            a = int(alpha[place[:2]][0])
            exact = Fraction(int(colour[place]) * white, a) if a else Fraction(0)
            divided[place] = min(white, int(exact + Fraction(1, 2)))
        colour = divided
    if white_is_zero:
        colour = white - colour
    if extra in ("unassalpha", "assocalpha"):
        return as_opencv(np.dstack([colour.repeat(3 // colours, 2), alpha]))
    return as_opencv(colour)


def check_tiff(layout) -> None:
    shape = (layout["height"], layout["width"], layout["channels"])
    upright = noise(layout["seed"], shape, layout["dtype"])
    content = tiff_of(stored(upright, layout["orientation"]), **layout)
    expected = expected_of(upright, layout["extra"], layout["white_is_zero"])
    decoded = decode(content, "x.tif")
    assert decoded.image.dtype == expected.dtype
    np.testing.assert_array_equal(decoded.image, expected)
    assert len(decoded.notes) == (layout["extra"] == "unspecified")
    channels = 1 if expected.ndim == 2 else expected.shape[2]
    assert shape_of(content, "x.tif") == (*expected.shape[:2], channels)


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_tiff_of_any_layout(layout):
    check_tiff(layout)


@pytest.mark.slow
@settings(max_examples=800, deadline=None)
@given(layouts())
def test_tiff_of_many_layouts(layout):
    check_tiff(layout)


@st.composite
def pngs(draw):
    kind = draw(st.sampled_from(["grey", "grey and alpha", "RGB", "RGBA", "palette"]))
    depths = {"grey": [1, 2, 4, 8, 16], "palette": [1, 2, 4, 8]}.get(kind, [8, 16])
    return {
        "kind": kind,
        "depth": draw(st.sampled_from(depths)),
        "with_key": kind in ("grey", "RGB", "palette") and draw(st.booleans()),
        "orientation": draw(st.sampled_from([None, 1, 2, 3, 4, 5, 6, 7, 8])),
        "height": draw(st.integers(1, 30)),
        "width": draw(st.integers(1, 30)),
        "seed": draw(st.integers(0, 9)),
    }


def check_png(kind, depth, with_key, orientation, height, width, seed):
    rng = np.random.default_rng(seed)
    channels = {"grey": 1, "palette": 1, "grey and alpha": 2, "RGB": 3, "RGBA": 4}[kind]
    dtype = np.uint16 if depth == 16 else np.uint8
    # Few values, so that the key is met by one channel, and by all.
    choice = rng.integers(0, 2**depth, 3, dtype)
    upright = rng.choice(choice, (height, width, channels))
    key = tuple(int(value) for value in rng.choice(choice, channels)) if with_key else ()
    palette = bytes(rng.integers(0, 256, 3 * 2**depth, np.uint8)) if kind == "palette" else b""
    opacity = bytes(rng.integers(0, 256, 2**depth, np.uint8)) if palette and with_key else b""
    content = png(
        stored(upright, orientation or 1),
        orientation,
        depth,
        () if palette else key,
        palette,
        opacity,
    )
    if palette:
        colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)[upright[..., 0]]
        alpha = np.frombuffer(opacity, np.uint8)[upright] if opacity else None
    else:
        white = np.iinfo(dtype).max
        colours = upright[..., : 1 if channels < 3 else 3] * dtype(white // (2**depth - 1))
        alpha = upright[..., -1:] if channels in (2, 4) else None
        if key:
            alpha = np.where((upright == key).all(-1), 0, white).astype(dtype)[..., None]
    if alpha is not None:
        grey = colours.shape[2] == 1
        colours = np.concatenate([colours.repeat(3, 2) if grey else colours, alpha], 2)
    decoded = decode(content, "x.png")
    assert decoded.image.dtype == dtype
    np.testing.assert_array_equal(decoded.image, as_opencv(colours))
    assert shape_of(content, "x.png") == (height, width, colours.shape[2])
    if decoded.is_stored_so:
        raw = np.frombuffer(content, np.uint8)
        read = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(read, decoded.image)


@settings(max_examples=60, deadline=None)
@given(pngs())
def test_png_of_any_kind(given_png):
    check_png(**given_png)


@pytest.mark.slow
@settings(max_examples=800, deadline=None)
@given(pngs())
def test_png_of_many_kinds(given_png):
    check_png(**given_png)


def tiff_by(**options) -> bytes:
    file = io.BytesIO()
    data = options.pop("data", np.zeros((8, 9, 3), np.uint8))
    tifffile.imwrite(file, data, **options)
    return file.getvalue()


def floats(kind: type) -> bytes:
    return tiff_by(data=np.ones((8, 9, 3), kind), photometric="rgb")


def ftyp(brand: bytes) -> bytes:
    return struct.pack(">I4s4sI", 24, b"ftyp", brand, 0) + b"mif1" + brand + bytes(400)


def saved(image_format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 8)).save(file, image_format)
    return file.getvalue()


REFUSED = {
    "half": (floats(np.float16), "floating point of 16 bits .* white"),
    "float": (floats(np.float32), "floating point of 32 bits .* white"),
    "double": (floats(np.float64), "floating point of 64 bits .* white"),
    "grey float": (tiff_by(data=np.ones((8, 9), np.float32)), "floating point .* white"),
    "int32": (tiff_by(data=np.ones((8, 9), np.int32)), "signed integers of 32 bits"),
    "int16": (tiff_by(data=np.ones((8, 9), np.int16)), "signed integers of 16 bits"),
    "uint32": (tiff_by(data=np.ones((8, 9), np.uint32)), "32 bits a channel"),
    "complex": (tiff_by(data=np.ones((8, 9), np.complex64)), "complex"),
    "pages": (tiff_by(data=np.zeros((3, 8, 9), np.uint8), photometric="minisblack"), "3 of them"),
    "a raw photo": (tiff_by(data=np.zeros((8, 9), np.uint16), photometric="cfa"), "CFA"),
    "WebP in a TIFF": (with_code(io.BytesIO(tiff_by(compression="zlib")), "<", 50001), "WEBP"),
    "a GIF": (saved("GIF"), "GIF"),
    "an AVIF": (saved("AVIF"), "AVIF"),
    "an AVIF by its brand": (ftyp(b"avif"), "AVIF"),
    "a HEIC": (ftyp(b"heic"), "HEIC"),
    "a film": (ftyp(b"isom"), "film"),
    "a JPEG 2000": (saved("JPEG2000"), "JPEG2000"),
    "a PPM": (saved("PPM"), "PPM"),
    "a PSD": (b"8BPS\0\1" + bytes(90), "Photoshop"),
    "a PDF": (b"%PDF-1.4\n" + bytes(90), "PDF"),
    "a page": (b"<!DOCTYPE html><html>not found</html>", "HTML"),
    "a drawing": (b'<?xml version="1.0"?><svg></svg>', "SVG"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_is_named(kind, tmp_path):
    content, found = REFUSED[kind]
    with pytest.raises(ImageError, match=found) as error:
        decode(content, "a/b.png")
    assert str(error.value).startswith("a/b.png: expected an image")
    assert re.search(found, error.value.found)
    file = tmp_path / "b.png"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=found):
        read_image(file)


def test_reduced_images_and_masks_beside_a_picture_are_passed_over():
    file, image = io.BytesIO(), noise(0, (40, 60, 3), np.uint16)
    with tifffile.TiffWriter(file) as writer:
        writer.write(image, photometric="rgb", subfiletype=0)
        writer.write(image[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(decode(file.getvalue(), "a").image, image[..., ::-1])


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiff_of_few_bits(bits, white_is_zero):
    """As Pillow reads them, whose own decoder it is, and by their meaning."""
    values = np.arange(2**bits, dtype=np.uint8).repeat(8 // bits)[None].repeat(3, 0)
    raw = np.packbits(np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(3, -1), 1)
    content = bytearray(tiff_by(data=raw, photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        for tag, value in ((256, values.shape[1]), (258, bits), (262, 0 if white_is_zero else 1)):
            place = opened.pages.first.tags[tag]
            kind = {3: "H", 4: "I"}[place.dtype]
            struct.pack_into("<" + kind, content, place.valueoffset, value)
    expected = values * (255 // (2**bits - 1))
    decoded = decode(bytes(content), "a").image
    np.testing.assert_array_equal(decoded, 255 - expected if white_is_zero else expected)


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_fax_codes(compression):
    image = Image.fromarray(noise(1, (30, 40), np.uint8)).convert("1")
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression)
    np.testing.assert_array_equal(decode(file.getvalue(), "a").image, np.asarray(image) * 255)


def test_an_extra_channel_without_a_name_is_transparency_as_writers_mean_it():
    """OpenCV writes no tag; a named one of no meaning is in the property test."""
    image = noise(2, (9, 8, 4), np.uint16)
    content = cv2.imencode(".tif", image)[1].tobytes()
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        assert 338 not in opened.pages.first.tags
    np.testing.assert_array_equal(decode(content, "a").image, image)


def test_a_large_photo_is_read_and_a_bomb_is_not(monkeypatch):
    """Beyond Pillow's limit of 179 million pixels."""
    file = io.BytesIO()
    Image.new("L", (14_000, 13_000), 130).save(file, "JPEG")
    assert shape_of(file.getvalue(), "a") == (13_000, 14_000, 1)
    image = decode(file.getvalue(), "a").image
    assert image.shape == (13_000, 14_000) and (image[::1000, ::1000] == 130).all()
    for content in (
        only_header(60_000),
        one_colour(20_000),
        tiff_by(data=np.zeros((1, 1), np.uint8)).replace(*sizes_of_a_bomb()),
    ):
        started = time.monotonic()
        for read in (decode, shape_of):
            with pytest.raises(TooManyPixels, match=r"found [26]0000x[26]0000 pixels in a file of"):
                read(content, "a.png")
        assert time.monotonic() - started < 1
    monkeypatch.setattr("esc_arch.imaging.codecs.available_bytes", lambda: 2**28)
    with pytest.raises(TooManyPixels, match=r"memory; found 14000x13000"):
        decode(file.getvalue(), "a.jpg")


def sizes_of_a_bomb() -> tuple[bytes, bytes]:
    entry = struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 257, 4, 1)
    small = b"".join(each + struct.pack("<I", 1) for each in entry)
    return small, b"".join(each + struct.pack("<I", 60_000) for each in entry)


def test_decoders_write_no_lines_of_their_own(capfd):
    lzw = bytearray(cv2.imencode(".tif", noise(0, (60, 50), np.uint8))[1].tobytes())
    lzw[30:60] = bytes(30)
    with pytest.raises(UserError, match=r"damaged one .*(code|LZW|[Dd]ecod)"):
        decode(bytes(lzw), "a.tif")
    deep = noise(0, (30, 20, 3), np.uint16)
    content = png(deep)
    profile = struct.pack(">I", 9) + b"iCCP" + b"name\0\0xyz"
    odd = content[:33] + profile + struct.pack(">I", zlib.crc32(profile[4:])) + content[33:]
    np.testing.assert_array_equal(decode(odd, "a.png").image, deep[..., ::-1])
    place = content.index(b"IDAT")
    packed = bytearray(content[place + 4 : -16])
    packed[40:60] = bytes(20)
    broken = b"IDAT" + bytes(packed)
    broken += struct.pack(">I", zlib.crc32(broken))
    with pytest.raises(UserError, match=r"damaged one .*decompress"):
        decode(content[:place] + broken + content[-12:], "a.png")
    with pytest.raises(UserError, match="damaged"):
        decode(tiff_by(compression="zlib")[:-20], "a.tif")
    assert capfd.readouterr() == ("", "")


def test_lines_of_others_are_not_lost_while_libtiff_decodes(capfd):
    file = io.BytesIO()
    Image.fromarray(noise(0, (2000, 500), np.uint8)).save(file, "TIFF", compression="tiff_lzw")
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            os.write(2, b"line\n")
            time.sleep(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: decode(file.getvalue(), "a"), range(20)))
    done.set()
    thread.join()
    assert set(capfd.readouterr().err.splitlines()) == {"line"}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_header_is_refused_as_the_pixels_are(kind, tmp_path):
    content, found = REFUSED[kind]
    file = tmp_path / "b.png"
    file.write_bytes(content)
    for read in (lambda: read_header(file), lambda: shape_of(content, file)):
        with pytest.raises(ImageError, match=found):
            read()


def test_a_tiff_without_pixels_is_damaged():
    content = tiff_by(photometric="rgb")
    height = struct.pack("<HHI", 257, 4, 1)
    content = content.replace(height + struct.pack("<I", 8), height + bytes(4))
    for read in (decode, shape_of):
        with pytest.raises(ImageError, match="damaged"):
            read(content, "a")


def test_libpng_writes_no_lines_of_its_own(capfd):
    deep = noise(0, (30, 20, 3), np.uint16)
    content = png(deep)
    place = content.index(b"IDAT")

    def with_data(data: bytes) -> bytes:
        packed = zlib.compress(data)
        chunk = b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
        return content[: place - 4] + struct.pack(">I", len(packed)) + chunk + content[-12:]

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    longer = decode(with_data(rows + bytes(500)), "a.png").image
    np.testing.assert_array_equal(longer, deep[..., ::-1])
    with pytest.raises(ImageError, match=r"damaged one .*filter"):
        decode(with_data(b"\7" + rows[1:]), "a.png")
    assert capfd.readouterr() == ("", "")


def bitfields() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 3, 2, 1, 32, 3, 24, 0, 0, 0, 0)
    header += struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + 24, 0, 0, 14 + len(header)) + header


def of_12_bits() -> bytes:
    content = cv2.imencode(".jpg", noise(0, (16, 16, 3), np.uint8))[1].tobytes()
    place = content.index(b"\xff\xc0")
    return content[: place + 4] + b"\x0c" + content[place + 5 :]


@pytest.mark.parametrize(("content", "found"), [(bitfields(), "bitfields"), (of_12_bits(), "12")])
def test_what_pillow_does_not_know_is_not_called_damaged(content, found):
    with pytest.raises(ImageError, match=f"not read .*{found}") as caught:
        decode(content + bytes(24), "a")
    assert "damaged" not in caught.value.found


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_tiff_of_jpeg_with_transparency(mode):
    plane = cv2.resize(noise(0, (4, 5), np.uint8), (40, 32), interpolation=cv2.INTER_CUBIC)
    image = Image.merge(mode, [Image.fromarray(np.roll(plane, i)) for i in range(len(mode))])
    file = io.BytesIO()
    image.save(file, "TIFF", compression="jpeg", quality=95)
    rgba = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGBA"))
    np.testing.assert_array_equal(decode(file.getvalue(), "a").image, rgba[..., [2, 1, 0, 3]])
    assert shape_of(file.getvalue(), "a") == (32, 40, 4)
