"""Image files of all kinds, against files written by hand and Pillow's own turning."""

import errno
import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from esc_arch.errors import UserError
from esc_arch.imaging.codecs import (
    decode,
    encode_png,
    find_images,
    read_header,
    read_image,
    shape_of,
)

# EXIF: the side of the upright image where the stored row 0 lies, and the stored column 0.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
HEIGHT, WIDTH = 6, 9


def pixels(channels: int, bits: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W, C) in RGB order; all values differ from their neighbours'."""
    rng = np.random.default_rng(channels * bits)
    dtype = np.uint8 if bits == 8 else np.uint16
    return rng.integers(0, 2**bits, (height, width, channels), dtype=dtype)


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a file with this orientation holds, pixel by pixel from EXIF's definition."""
    height, width = upright.shape[:2]
    rows, columns = (height, width) if orientation < 5 else (width, height)
    out = np.empty((rows, columns, upright.shape[2]), upright.dtype)
    for row in range(rows):
        for column in range(columns):
            place = {}
            for index, side in zip((row, column), SIDES[orientation], strict=True):
                axis, length = ("y", height) if side in ("top", "bottom") else ("x", width)
                place[axis] = index if side in ("top", "left") else length - 1 - index
            out[row, column] = upright[place["y"], place["x"]]
    return out


def as_opencv(image: np.ndarray) -> np.ndarray:
    """RGB or RGBA to BGR or BGRA; grey to (H, W)."""
    if image.shape[2] == 1:
        return image[..., 0]
    return image[..., [2, 1, 0, 3][: image.shape[2]]]


def exif(orientation: int) -> bytes:
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def png(
    image: np.ndarray,
    orientation: int | None = None,
    bits: int = 0,
    key: tuple[int, ...] = (),
    palette: bytes = b"",
    opacity: bytes = b"",
) -> bytes:
    """A PNG file by the specification; rows are not filtered.

    Args:
        key: the colour that is transparent.
        palette: RGB, which makes indices of grey.
        opacity: of the palette's colours.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + crc(kind + content)

    def crc(content: bytes) -> bytes:
        return struct.pack(">I", zlib.crc32(content))

    height, width, channels = image.shape
    bits = bits or image.dtype.itemsize * 8
    colour = 3 if palette else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    if bits < 8:
        values = np.unpackbits(image, axis=2)[..., 8 - bits :].reshape(height, -1)
        rows = [np.packbits(row).tobytes() for row in values]
    else:
        rows = [row.astype(row.dtype.newbyteorder(">")).tobytes() for row in image]
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
            b"" if orientation is None else chunk(b"eXIf", exif(orientation)),
            chunk(b"PLTE", palette) if palette else b"",
            chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b"",
            chunk(b"tRNS", opacity) if opacity else b"",
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            chunk(b"IEND", b""),
        ]
    )


def tiff(image: np.ndarray, orientation: int | None = None, order: str = "<") -> bytes:
    """An uncompressed TIFF file in one strip, in either byte order."""
    height, width, channels = image.shape
    data = image.astype(image.dtype.newbyteorder(order)).tobytes()
    short, long = 3, 4
    bits_at = 8
    strip_at = bits_at + 2 * channels
    bits = image.dtype.itemsize * 8
    entries = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, channels, bits if channels == 1 else bits_at),
        (259, short, 1, 1),
        (262, short, 1, 1 if channels == 1 else 2),
        (273, long, 1, strip_at),
        *([] if orientation is None else [(274, short, 1, orientation)]),
        (277, short, 1, channels),
        (278, long, 1, height),
        (279, long, 1, len(data)),
        (284, short, 1, 1),
        *([(338, short, 1, 2)] if channels == 4 else []),
    ]
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        inside = kind == short and count == 1
        directory += struct.pack(f"{order}HHI", tag, kind, count)
        directory += struct.pack(f"{order}HH" if inside else f"{order}I", value, *[0] * inside)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", strip_at + len(data))
    return (
        head + struct.pack(f"{order}{channels}H", *[bits] * channels) + data + directory + b"\0" * 4
    )


def by_pillow(image: np.ndarray, suffix: str, orientation: int | None = None) -> bytes:
    file = io.BytesIO()
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True, "exact": True}}.get(suffix, {})
    if orientation is not None:
        options = options | {"exif": b"Exif\0\0" + exif(orientation)}
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, suffix, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", [None, *SIDES])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_png_and_tiff_of_known_pixels(bits, channels, orientation):
    upright = pixels(channels, bits)
    held = stored(upright, orientation or 1)
    content = png(held, orientation)
    decoded = decode(content, "x.png")
    np.testing.assert_array_equal(decoded.image, as_opencv(upright))
    assert decoded.image.dtype == upright.dtype
    assert decoded.is_stored_so == (orientation in (None, 1))
    for order in "<>":
        decoded = decode(tiff(held, orientation, order), "x.tif")
        np.testing.assert_array_equal(decoded.image, as_opencv(upright))
        assert decoded.image.dtype == upright.dtype and not decoded.is_stored_so
        assert decoded.image.flags.c_contiguous


@pytest.mark.parametrize("orientation", [None, *SIDES])
@pytest.mark.parametrize(
    ("suffix", "channels"), [("JPEG", 1), ("JPEG", 3), ("WEBP", 3), ("WEBP", 4)]
)
def test_jpeg_and_webp_as_pillow_turns_them(suffix, channels, orientation):
    held = stored(np.kron(pixels(channels, 8), np.ones((4, 4, 1), np.uint8)), orientation or 1)
    content = by_pillow(held, suffix, orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    decoded = decode(content, "x").image
    np.testing.assert_array_equal(decoded, as_opencv(np.atleast_3d(expected)))
    if suffix == "WEBP":
        np.testing.assert_array_equal(decoded[::4, ::4], as_opencv(pixels(channels, 8)))


@pytest.mark.parametrize("channels", [1, 3])
def test_bmp(channels):
    image = pixels(channels, 8)
    np.testing.assert_array_equal(decode(by_pillow(image, "BMP"), "x").image, as_opencv(image))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_fills_the_range(bits):
    values = pixels(1, 8) >> (8 - bits)
    expected = values[..., 0] * (255 // (2**bits - 1))
    decoded = decode(png(values, bits=bits), "x")
    np.testing.assert_array_equal(decoded.image, expected)
    if decoded.is_stored_so:
        raw = np.frombuffer(png(values, bits=bits), np.uint8)
        np.testing.assert_array_equal(cv2.imdecode(raw, cv2.IMREAD_UNCHANGED), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_with_alpha_becomes_bgra(bits):
    image = pixels(2, bits)
    decoded = decode(png(image), "x").image
    np.testing.assert_array_equal(decoded, image[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("suffix", ["PNG", "BMP"])
def test_palettes_become_colours(suffix, transparent):
    colours = pixels(3, 8, 1, 5)[0]
    index = np.random.default_rng(0).integers(0, 5, (HEIGHT, WIDTH), dtype=np.uint8)
    palette = Image.fromarray(index, "L")
    palette.putpalette(colours.tobytes())
    file = io.BytesIO()
    palette.save(file, suffix, **({"transparency": 2} if transparent else {}))
    decoded = decode(file.getvalue(), "x")
    np.testing.assert_array_equal(decoded.image[..., :3], colours[index][..., ::-1])
    if transparent and suffix == "PNG":
        np.testing.assert_array_equal(decoded.image[..., 3], np.where(index == 2, 0, 255))
    assert not decoded.is_stored_so


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_encoded_png_holds_the_pixels(channels, bits):
    image = as_opencv(pixels(channels, bits))
    decoded = decode(encode_png(image), "x")
    np.testing.assert_array_equal(decoded.image, image)
    assert decoded.is_stored_so


def large(channels: int, bits: int) -> np.ndarray:
    """Smooth, so that cutting a lossy file cuts pixels, not only its end."""
    coarse = np.random.default_rng(1).random((12, 12, channels))
    image = cv2.resize(coarse, (120, 90), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    image = (image * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    return image.reshape(90, 120, channels)


def opencv_tiff(image: np.ndarray) -> bytes:
    return cv2.imencode(".tif", image)[1].tobytes()


FILES = {
    **{f"png_{c}_{b}": png(large(c, b)) for c in (1, 3, 4) for b in (8, 16)},
    **{f"tiff_{c}_{b}": tiff(large(c, b)) for c in (1, 3, 4) for b in (8, 16)},
    **{f"lzw_tiff_{c}_{b}": opencv_tiff(large(c, b)) for c in (1, 3) for b in (8, 16)},
    **{f"jpeg_{c}": by_pillow(large(c, 8), "JPEG") for c in (1, 3)},
    **{f"webp_{c}": by_pillow(large(c, 8), "WEBP") for c in (3, 4)},
    **{f"bmp_{c}": by_pillow(large(c, 8), "BMP") for c in (1, 3)},
}


@pytest.mark.parametrize("kind", FILES)
def test_files_cut_off_anywhere(kind):
    content = FILES[kind]
    assert decode(content, "x").image.shape[:2] == (90, 120)
    for kept in (0, 1, 4, 20, 60, len(content) // 3, len(content) // 2, len(content) * 9 // 10):
        with pytest.raises(UserError, match=r"^a/b\.x: expected an image"):
            decode(content[:kept], "a/b.x")


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind.startswith("png")])
def test_one_changed_byte_of_a_png(kind):
    content = bytearray(FILES[kind])
    for place in (18, len(content) // 2, len(content) - 20):
        content[place] ^= 4
        with pytest.raises(UserError, match=r"x\.png: expected an image"):
            decode(bytes(content), "x.png")
        content[place] ^= 4


@pytest.mark.parametrize("kind", FILES)
def test_random_damage_raises_nothing_else(kind):
    rng = np.random.default_rng(0)
    for _ in range(30):
        content = np.frombuffer(FILES[kind], np.uint8).copy()
        places = rng.integers(0, len(content) if rng.random() < 0.5 else 200, 6)
        content[places] = rng.integers(0, 256, 6)
        try:
            assert decode(content.tobytes(), "x").image.dtype in (np.uint8, np.uint16)
        except UserError as error:
            assert str(error).startswith("x: expected")


def test_other_kinds_of_pixels_and_of_files():
    floating, animation = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.float32)).save(floating, "TIFF")
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3)]
    frames[0].save(animation, "PNG", save_all=True, append_images=frames[1:])
    for content, found in (
        (floating.getvalue(), "floating point of 32 bits"),
        (animation.getvalue(), "found 3"),
        (b"GIF89a" + bytes(50), "a GIF"),
        (b"not an image", "a file that does not read as an image"),
        (b"", "an empty file"),
    ):
        with pytest.raises(UserError, match=found):
            decode(content, "x")


def test_find_images(tmp_path):
    names = ["b.JPG", "a.png", "c/d.webp", "c/e.tiff", ".hidden.png", ".git/f.png", "g.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)]
    assert found == ["a.png", "b.JPG", "c/d.webp", "c/e.tiff"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found none"):
        find_images(tmp_path / "empty")
    with pytest.raises(UserError, match="found no folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match="No such file"):
        read_image(tmp_path / "nowhere.png")


def test_shapes_by_header(tmp_path):
    """All kinds of files that decode, turned ones and palettes among them."""
    rgb = Image.fromarray(pixels(3, 8, 20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(tmp_path / "rgb.jpg")
    rgb.convert("L").save(tmp_path / "grey.jpg")
    rgb.save(tmp_path / "turned.jpg", exif=exif)
    rgb.save(tmp_path / "turned.png", exif=exif)
    rgb.save(tmp_path / "turned.tif", exif=exif)
    rgb.convert("P").save(tmp_path / "palette.png")
    rgb.convert("P").save(tmp_path / "clear_palette.png", transparency=3)
    rgb.save(tmp_path / "clear_rgb.png", transparency=(1, 2, 3))
    rgb.convert("LA").save(tmp_path / "grey_alpha.png")
    rgb.convert("1").save(tmp_path / "bits.png")
    rgb.convert("RGBA").save(tmp_path / "rgba.png")
    rgb.save(tmp_path / "rgb.bmp")
    rgb.save(tmp_path / "rgb.webp", lossless=True)
    for channels in (1, 3, 4):
        deep = as_opencv(pixels(channels, 16, 11, 17))
        assert cv2.imwrite(str(tmp_path / f"deep_{channels}.png"), deep)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 16
    for file in files:
        image = read_image(file)
        channels = 1 if image.ndim == 2 else image.shape[2]
        assert shape_of(file.read_bytes(), file) == (*image.shape[:2], channels), file.name
        assert shape_of(memoryview(file.read_bytes()), file) == (*image.shape[:2], channels)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_no_image(content):
    with pytest.raises(UserError, match="here: expected an image"):
        shape_of(content, "here")


def test_cut_off_png():
    content = png(pixels(3, 8))
    with pytest.raises(UserError, match=r"a\.png"):
        shape_of(content[:30], "a.png")


def test_headers_of_files(tmp_path):
    """Sizes as OpenCV reads them, and formats that are not decoded here."""
    exif_turned = Image.Exif()
    exif_turned[0x0112] = 6
    image = Image.fromarray(pixels(3, 8, 20, 30))
    for name in ("a.jpg", "a.tif", "a.png", "a.webp", "a.jp2", "a.ppm"):
        image.save(tmp_path / name, **({} if name in ("a.jp2", "a.ppm") else {"exif": exif_turned}))
        raw = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
        read = cv2.imdecode(raw, cv2.IMREAD_COLOR)
        assert read is not None, name
        assert read_header(tmp_path / name).shape == read.shape, name
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.png: .* an empty file"):
        read_header(tmp_path / "b.png")
    with pytest.raises(UserError, match="No such file"):
        read_header(tmp_path / "c.png")


def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path):
    folder = tmp_path / "top"
    for name in ("a", "b/c"):
        (folder / name).mkdir(parents=True)
    for name in ("1.png", "a/2.png", "b/c/3.png"):
        (folder / name).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "4.png").write_bytes(b"")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b" / "c" / "up").symlink_to(folder / "b")
    for name in ("x", "y"):  # the same folder by two names
        (folder / name).symlink_to(tmp_path / "elsewhere")
    found = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert found == ["1.png", "a/2.png", "b/c/3.png", "x/4.png", "y/4.png"]


def test_a_folder_that_cannot_be_searched_is_said(tmp_path):
    place, names = tmp_path, ["d" * 200] * 25
    here = os.open(tmp_path, os.O_RDONLY)
    for name in names:  # longer in all than the system takes
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (tmp_path / "a.png").write_bytes(b"")
    said = []
    assert find_images(place, said.append) == [tmp_path / "a.png"]
    assert len(said) == 1 and os.strerror(errno.ENAMETOOLONG) in said[0]
