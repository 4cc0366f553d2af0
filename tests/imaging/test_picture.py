"""Written files, read back by Pillow, OpenCV and tifffile's rules."""

import dataclasses
import os

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from esc_arch.errors import UserError
from esc_arch.imaging.metadata import Metadata
from esc_arch.imaging.picture import (
    Encoding,
    Picture,
    check_size,
    encode,
    read_picture,
    write_picture,
)
from tests.imaging.test_metadata import ICC, XMP, camera_exif
from tests.upscale.stand_ins import photo

GRAY_ICC = b"\0" * 16 + b"GRAY" + b"\0" * 108
METADATA = Metadata(
    exif=camera_exif().tobytes().removeprefix(b"Exif\0\0"),
    xmp=XMP,
    icc_profile=ICC,
    dpi=(300.0, 200.0),
    text={"Comment": "Grüße", "写": "no keyword of a PNG", "Title": "写真"},
)


def by_opencv(path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    orders = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    return image if image.ndim == 2 else cv2.cvtColor(image, orders[image.shape[2]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("image_format", ["png", "tiff"])
def test_lossless_formats_keep_pixels_and_metadata(tmp_path, dtype, channels, image_format):
    image = photo(33, 47, channels, dtype)
    path = tmp_path / f"a.{image_format}"
    profile = ICC if channels > 1 else GRAY_ICC
    metadata = dataclasses.replace(METADATA, icc_profile=profile)
    assert write_picture(path, Picture(image, metadata), Encoding(image_format)) == []
    assert os.listdir(tmp_path) == [path.name]
    with Image.open(path) as opened:
        opened.load()
        # Of 16 bits Pillow reads grey alone; of 8, OpenCV mixes a TIFF's colours with its alpha.
        as_read = by_opencv(path) if dtype == np.uint16 else np.asarray(opened)
        assert np.array_equal(as_read, image)
        assert opened.size == (47, 33)
        assert opened.info["icc_profile"] == profile
        assert opened.info["dpi"] == pytest.approx((300, 200), abs=0.02)
        exif = opened.getexif()
        assert exif[0x010F] == "Maker"
        assert exif.get(0x0112, 1) == 1
        assert exif.get_ifd(0x8769)[0x9003] == "2024:01:02 03:04:05"
        assert exif.get_ifd(0x8769)[0xA002] == 47 and exif.get_ifd(0x8769)[0xA003] == 33
        assert float(exif.get_ifd(0x8769)[0x829A]) == pytest.approx(0.01)
        assert exif.get_ifd(0x8825)[2] == (52.0, 30.0, 1.0)
        if image_format == "png":
            assert opened.text["Comment"] == "Grüße" and opened.text["Title"] == "写真"
            assert "写" not in opened.text
    again = read_picture(path)
    assert np.array_equal(again.pixels, image)
    assert again.metadata.xmp == XMP.replace(b'"6"', b'"1"')


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_for_another_library(tmp_path, channels, dtype):
    tifffile = pytest.importorskip("tifffile")
    image = photo(15, 21, channels, dtype)
    path = tmp_path / "a.tif"
    write_picture(path, Picture(image, METADATA), Encoding("tiff"))
    assert np.array_equal(tifffile.imread(path), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_keeps_metadata_and_full_colour(tmp_path, channels):
    image = photo(64, 80, channels)
    path = tmp_path / "a.jpg"
    metadata = dataclasses.replace(METADATA, icc_profile=ICC if channels == 3 else GRAY_ICC)
    assert write_picture(path, Picture(image, metadata), Encoding("jpeg", quality=98)) == []
    with Image.open(path) as opened:
        # All components are sampled alike: 4:4:4.
        assert {layer[1:3] for layer in opened.layer} == {(1, 1)}
        assert opened.info["dpi"] == (300, 200)
        assert opened.info["icc_profile"] == metadata.icc_profile
        assert opened.info["comment"] == "Grüße".encode()
        assert opened.info["xmp"] == XMP.replace(b'"6"', b'"1"')
        exif = opened.getexif()
        assert exif[0x0112] == 1 and exif.get_ifd(0x8769)[0xA002] == 80
        assert np.abs(np.asarray(opened).astype(int) - image).mean() < 2
    smaller = tmp_path / "b.jpg"
    write_picture(smaller, Picture(image, metadata), Encoding("jpeg", quality=30))
    assert smaller.stat().st_size < path.stat().st_size


@pytest.mark.parametrize("channels", [3, 4])
def test_webp(tmp_path, channels):
    image = photo(40, 30, channels)
    lossless, lossy = tmp_path / "a.webp", tmp_path / "b.webp"
    write_picture(lossless, Picture(image, METADATA), Encoding("webp", lossless=True))
    write_picture(lossy, Picture(image, METADATA), Encoding("webp", quality=50))
    with Image.open(lossless) as opened:
        assert np.array_equal(np.asarray(opened), image)
        assert opened.info["icc_profile"] == ICC
        assert opened.getexif()[0x0112] == 1
        assert opened.info["xmp"] == XMP.replace(b'"6"', b'"1"')
    with Image.open(lossy) as opened:
        assert np.abs(np.asarray(opened).astype(int) - image).mean() < 12
    assert lossy.stat().st_size < lossless.stat().st_size


def test_webp_says_the_resolution_in_exif(tmp_path):
    picture = Picture(photo(8, 8), Metadata(dpi=(300.0, 200.0)))
    write_picture(tmp_path / "a.webp", picture, Encoding("webp"))
    assert read_picture(tmp_path / "a.webp").metadata.dpi == (300.0, 200.0)


def test_bmp(tmp_path):
    image = photo(9, 7)
    write_picture(tmp_path / "a.bmp", Picture(image, METADATA), Encoding("bmp"))
    assert np.array_equal(by_opencv(tmp_path / "a.bmp"), image)
    with Image.open(tmp_path / "a.bmp") as opened:
        assert opened.info["dpi"] == pytest.approx((300, 200), abs=0.02)


@pytest.mark.parametrize("image_format", ["bmp", "webp"])
def test_16_bits_are_rounded_to_the_nearest_of_8(tmp_path, image_format):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = np.stack([values] * 3, -1)
    path = tmp_path / "a"
    encoding = Encoding(image_format, lossless=True)
    notes = write_picture(path, Picture(image, Metadata()), encoding)
    assert len(notes) == 1 and "16 bits were rounded to 8" in notes[0]
    with Image.open(path) as opened:
        expected = np.rint(image.astype(np.float64) / 65535 * 255)
        assert np.array_equal(np.asarray(opened), expected)


@pytest.mark.parametrize("image_format", ["jpeg", "bmp"])
def test_alpha_is_laid_on_white(tmp_path, image_format):
    image = photo(64, 64, 4)
    image[:, 32:] = (200, 0, 0, 0)
    path = tmp_path / "a"
    notes = write_picture(path, Picture(image, Metadata()), Encoding(image_format, quality=100))
    assert len(notes) == 1 and "laid on white" in notes[0]
    alpha = image[..., 3:] / 255.0
    expected = np.rint(image[..., :3] * alpha + 255 * (1 - alpha))
    with Image.open(path) as opened:
        difference = np.abs(np.asarray(opened).astype(int) - expected)
    assert difference.max() <= (0 if image_format == "bmp" else 6)
    assert difference[:, 40:].max() == 0


def test_a_profile_of_other_pixels_is_left_out(tmp_path):
    metadata = Metadata(icc_profile=GRAY_ICC)
    notes = write_picture(tmp_path / "a.png", Picture(photo(8, 8), metadata), Encoding("png"))
    assert len(notes) == 1 and "ICC profile" in notes[0]
    with Image.open(tmp_path / "a.png") as opened:
        assert "icc_profile" not in opened.info


def test_a_real_grey_profile_is_kept():
    space = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).profile.xcolor_space
    assert space == "RGB " and ICC[16:20] == b"RGB "


def test_what_is_too_long_for_a_jpeg(tmp_path):
    metadata = Metadata(exif=METADATA.exif + b"\0" * 70000, xmp=b"x" * 70000, dpi=(72.0, 72.0))
    notes = write_picture(tmp_path / "a.jpg", Picture(photo(8, 8), metadata), Encoding("jpeg"))
    assert [note.split(" is")[0] for note in notes] == ["its EXIF", "its XMP"]
    assert by_opencv(tmp_path / "a.jpg").shape == (8, 8, 3)


def test_an_existing_file_stays_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    picture = Picture(photo(8, 8), Metadata())
    with pytest.raises(UserError, match="--overwrite"):
        write_picture(path, picture, Encoding("png"))
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == ["a.png"]
    write_picture(path, picture, Encoding("png"), overwrite=True)
    assert np.array_equal(by_opencv(path), picture.pixels)
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_failure_to_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_picture(tmp_path / "a.png", Picture(photo(8, 8), Metadata()), Encoding("png"))
    assert os.listdir(tmp_path) == []


def test_names_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("ä" * 125 + ".png")
    write_picture(path, Picture(photo(8, 8), Metadata()), Encoding("png"))
    assert os.listdir(tmp_path) == [path.name]


def test_sizes_that_a_format_cannot_hold(tmp_path):
    for image_format, width, height in (
        ("jpeg", 65501, 1),
        ("webp", 1, 16384),
        ("tiff", 40000, 40000),
        ("bmp", 30000, 30000),
    ):
        with pytest.raises(UserError, match=f"{width}x{height}"):
            check_size(tmp_path / "a", image_format, width, height, 3)
    check_size(tmp_path / "a", "png", 40000, 40000, 3)
    for image_format, shape in (("jpeg", (2, 65500)), ("webp", (16383, 2)), ("png", (2, 70000))):
        image = np.zeros((*shape, 3), np.uint8)
        pieces, _ = encode(tmp_path, Picture(image, Metadata()), Encoding(image_format))
        assert len(b"".join(pieces)) > 50
