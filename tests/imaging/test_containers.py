"""Formats, depths, channels, layouts, transparency and turning, against other writers and readers.

TIFF files are written by tifffile, the packed segments of some by Pillow's libtiff; PNG files by
the specification.  What they should become is computed from the pixels that were written.
"""

import io
import struct
from fractions import Fraction

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from esc_arch.imaging.codecs import decode, shape_of
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
@settings(max_examples=3000, deadline=None)
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
@settings(max_examples=3000, deadline=None)
@given(pngs())
def test_png_of_many_kinds(given_png):
    check_png(**given_png)
