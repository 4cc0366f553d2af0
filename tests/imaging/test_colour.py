"""Colours of print and of other spaces, against profiles made here, Pillow and formulas."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from esc_arch.imaging.codecs import decode
from esc_arch.imaging.metadata import Metadata
from esc_arch.imaging.picture import Encoding, Picture, read_picture, write_picture
from tests.imaging.profiles import P3, SRGB, cmyk_profile, grey_profile, rgb_profile, srgb_of
from tests.upscale.stand_ins import photo

# Cyan, magenta, yellow, black, and what the press of `cmyk_profile` makes of them.
INKS = {
    (0, 0, 0, 0): (255, 255, 255),
    (255, 255, 0, 0): (255, 255, 255),
    (0, 0, 255, 0): (0, 0, 255),
    (0, 0, 0, 255): (0, 0, 0),
}


def inked(ink: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.full((16, 24, 4), ink, dtype) * dtype(257 if dtype == np.uint16 else 1)


def cmyk_file(path, ink, profile: bytes) -> None:
    if path.suffix == ".jpg":
        image = Image.fromarray(inked(ink), "CMYK")
        image.save(path, quality=100, icc_profile=profile or None)
        return
    dtype = np.uint16 if path.stem == "deep" else np.uint8
    tifffile.imwrite(path, inked(ink, dtype), photometric="separated", iccprofile=profile or None)


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "deep.tif"])
def test_cmyk_becomes_rgb_by_its_profile(tmp_path, name, ink):
    cmyk_file(tmp_path / name, ink, cmyk_profile())
    picture = read_picture(tmp_path / name)
    assert np.abs(picture.pixels.astype(int) - INKS[ink]).max() <= 6
    assert picture.metadata.icc_profile == b""
    (note,) = picture.notes
    assert "CMYK" in note and "profile" in note
    notes = write_picture(tmp_path / "b.png", picture, Encoding("png"))
    assert notes == []


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "deep.tif"])
@pytest.mark.parametrize("profile", [b"", rgb_profile(), b"damaged" * 30])
def test_cmyk_without_a_profile_of_its_own(tmp_path, name, profile):
    for ink, colour in {(255, 0, 0, 0): (0, 255, 255), (0, 128, 0, 51): (204, 102, 204)}.items():
        cmyk_file(tmp_path / name, ink, profile)
        picture = read_picture(tmp_path / name)
        assert np.abs(picture.pixels.astype(int) - colour).max() <= 3
        assert picture.metadata.icc_profile == b"" and len(picture.notes) == 1


def test_alpha_beside_cmyk(tmp_path):
    pixels = np.dstack([inked((0, 0, 255, 0)), np.full((16, 24), 77, np.uint8)])
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="separated", extrasamples=["unassalpha"]
    )
    image = decode((tmp_path / "a.tif").read_bytes(), "a").image
    assert image.shape == (16, 24, 4) and (image == (0, 255, 255, 77)).all()


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lab_as_littlecms_converts_it(tmp_path, dtype, photometric):
    image = Image.fromarray(photo(30, 40) // 2 + 60)
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = np.asarray(ImageCms.profileToProfile(image, *spaces, outputMode="LAB")).astype(int)
    lab[..., 1:] = (lab[..., 1:] + 128) % 256 - 128  # Pillow's have a sign
    assert lab[..., 1:].min() < -5 and lab[..., 1:].max() > 5
    if dtype == np.uint16:
        scale = 65280 // 255 if photometric == "icclab" else 257
        lab = np.dstack([lab[..., 0] * scale, lab[..., 1:] * 256])
    offset = 128 * (256 if dtype == np.uint16 else 1) if photometric == "icclab" else 0
    stored = np.dstack([lab[..., 0], (lab[..., 1:] + offset) % (np.iinfo(dtype).max + 1)])
    tifffile.imwrite(tmp_path / "a.tif", stored.astype(dtype), photometric=photometric)
    decoded = decode((tmp_path / "a.tif").read_bytes(), "a")
    assert decoded.image.dtype == dtype and "L*a*b*" in decoded.notes[0]
    difference = decoded.image[..., ::-1] / np.iinfo(dtype).max - np.asarray(image) / 255
    assert np.abs(difference).max() < 0.03 and np.abs(difference).mean() < 0.006


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_ycbcr_as_pillow_converts_it(compression):
    image = Image.fromarray(photo(30, 40)).convert("YCbCr")
    file = io.BytesIO()
    image.save(
        file, "TIFF", compression=compression, **({"quality": 98} if compression == "jpeg" else {})
    )
    decoded = decode(file.getvalue(), "a").image[..., ::-1].astype(int)
    assert np.abs(decoded - np.asarray(image.convert("RGB"))).max() <= (
        12 if compression == "jpeg" else 1
    )


def test_a_profile_of_wide_colours_is_applied_for_a_bmp(tmp_path):
    pixels = photo(20, 30)
    metadata = Metadata(icc_profile=rgb_profile())
    notes = write_picture(tmp_path / "a.bmp", Picture(pixels, metadata), Encoding("bmp"))
    assert len(notes) == 1 and "sRGB" in notes[0] and "BMP" in notes[0]
    linear = (pixels / 255) ** 2.2 @ P3.T @ np.linalg.inv(SRGB).T
    written = np.asarray(Image.open(tmp_path / "a.bmp"))
    assert np.abs(written - 255 * srgb_of(linear)).max() < 3
    assert np.abs(written.astype(int) - pixels).max() > 10
    # What is sRGB already stays as it is.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Picture(pixels, Metadata(icc_profile=srgb))
    assert write_picture(tmp_path / "b.bmp", picture, Encoding("bmp")) == []
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.bmp")), pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.webp", "a.bmp"])
def test_a_profile_of_grey_is_applied_where_it_cannot_stay(tmp_path, name, dtype):
    """PNG and TIFF of grey with transparency become RGBA, which no profile of grey describes."""
    white = np.iinfo(dtype).max
    grey = photo(20, 30, 1, dtype)
    alpha = np.full_like(grey, white)
    metadata = Metadata(icc_profile=grey_profile())
    picture = Picture(np.dstack([grey, grey, grey, alpha]), metadata)
    encoding = Encoding({"tif": "tiff"}.get(name[2:], name[2:]), lossless=True)
    notes = write_picture(tmp_path / name, picture, encoding)
    assert any("sRGB" in note for note in notes)
    again = read_picture(tmp_path / name)
    assert again.metadata.icc_profile == b""
    written = again.pixels[..., :3] / np.iinfo(again.pixels.dtype).max
    assert np.abs(written - srgb_of(grey / white)[..., None]).max() < 0.006
    if name in ("a.png", "a.tiff"):
        kept = write_picture(tmp_path / name, Picture(grey, metadata), encoding, overwrite=True)
        assert kept == []
        assert read_picture(tmp_path / name).metadata.icc_profile == metadata.icc_profile


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_the_profile_and_xmp_of_any_tiff(tmp_path, big, order):
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    tifffile.imwrite(
        tmp_path / "a.tif", photo(8, 9), photometric="rgb", bigtiff=big, byteorder=order,
        iccprofile=rgb_profile(), extratags=[(700, 1, len(xmp), xmp, True)],
    )  # fmt: skip
    metadata = read_picture(tmp_path / "a.tif").metadata
    assert metadata.icc_profile == rgb_profile() and metadata.xmp == xmp
