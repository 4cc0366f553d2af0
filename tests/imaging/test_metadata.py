"""Pixels and metadata of files that Pillow and OpenCV have written."""

import io
import re
import struct
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from esc_arch.errors import UserError
from esc_arch.imaging.metadata import resized_exif, resized_xmp
from esc_arch.imaging.picture import read_picture
from tests.upscale.stand_ins import photo

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:li tiff:Orientation="6" a="1"/></x:xmpmeta>'


def camera_exif(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0131] = "Maker", orientation, "Firmware 1"
    exif[0x8769] = {0x9003: "2024:01:02 03:04:05", 0xA002: 40, 0xA003: 30, 0x829A: 0.01}
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 1.0)}
    loaded = Image.Exif()
    loaded.load(exif.tobytes())
    return loaded


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_metadata_of_each_format(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(photo(30, 40))
    options = {"lossless": True} if suffix == "webp" else {}
    if suffix == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    exif = camera_exif()
    if suffix == "tif":
        exif[700] = XMP
    image.save(path, exif=exif, icc_profile=ICC, dpi=(300, 200), xmp=XMP, **options)
    picture = read_picture(path)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert picture.pixels.shape == (40, 30, 3)
    assert np.array_equal(picture.pixels, expected)
    metadata = picture.metadata
    assert metadata.icc_profile == ICC
    # PNG counts pixels per metre; WebP has no place but the EXIF, which says none.
    if suffix != "webp":
        assert metadata.dpi == pytest.approx((300, 200), abs=0.02)
    assert metadata.xmp == XMP
    exif = Image.Exif()
    exif.load(metadata.exif)
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2024:01:02 03:04:05"
    assert exif.get_ifd(0x8825)[2] == (52.0, 30.0, 1.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_all_depths_in_the_order_of_rgb(tmp_path, dtype, channels, suffix):
    image = photo(7, 9, channels, dtype)
    order = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[channels]
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), image if order is None else cv2.cvtColor(image, order))
    picture = read_picture(path)
    assert picture.pixels.dtype == dtype
    assert np.array_equal(picture.pixels, image)
    assert picture.metadata.exif == b"" and picture.metadata.icc_profile == b""


def test_the_text_of_a_png(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "Größe")
    text.add_itxt("Description", "写真")
    text.add_text("Raw profile type exif", "stale")
    Image.fromarray(photo(5, 6)).save(tmp_path / "a.png", pnginfo=text)
    metadata = read_picture(tmp_path / "a.png").metadata
    assert metadata.text == {"Title": "Größe", "Description": "写真"}


def test_several_images_and_no_file_are_named(tmp_path):
    image = Image.fromarray(photo(5, 6))
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image])
    (tmp_path / "empty.png").write_bytes(b"")
    for name, says in (
        ("pages.tif", "found 2 of them"),
        ("empty.png", "found an empty file"),
        ("none.png", "No such file"),
    ):
        with pytest.raises(UserError, match=says) as error:
            read_picture(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))


FILMS = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Cam='http://ns.google.com/photos/1.0/camera/'
 xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"
 Cam:MotionPhoto="1" Cam:MicroVideoOffset='123' Cam:BurstID="b" hdrgm:Version="1.0"
 xmpNote:HasExtendedXMP="0123" xmp:Rating="5">
<Cam:MotionPhotoPresentationTimestampUs>9</Cam:MotionPhotoPresentationTimestampUs>
<hdrgm:GainMapMax><rdf:Seq><rdf:li>4</rdf:li></rdf:Seq></hdrgm:GainMapMax>
<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="video/mp4"
 Item:Length="99"/></rdf:li></rdf:Seq></Container:Directory><hdrgm:Gamma/>
<dc:creator><rdf:Seq><rdf:li>MotionPhoto</rdf:li></rdf:Seq></dc:creator></rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_xmp_tells_nothing_of_films_and_gain_maps_that_are_gone():
    root = ElementTree.fromstring(resized_xmp(FILMS, 4, 5))
    names = {re.sub(r".*}", "", name) for node in root.iter() for name in (node.tag, *node.attrib)}
    kept = {"xmpmeta", "RDF", "Description", "about", "BurstID", "Rating", "creator", "Seq", "li"}
    assert names == kept
    assert [node.text for node in root.iter() if node.tag.endswith("li")] == ["MotionPhoto"]
    assert resized_xmp(XMP, 4, 5) == XMP.replace(b'"6"', b'"1"')


def test_exif_tells_nothing_of_a_film_that_is_gone():
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x8897] = 1
    again = Image.Exif()
    again.load(resized_exif(exif.tobytes().removeprefix(b"Exif\0\0"), 4, 5))
    assert again.get_ifd(0x8769)[0x8897] == 0 and again[0x010F] == "Maker"


def tiff_structure(order: str, thumbnail: bytes) -> bytes:
    """EXIF by the specification: two directories, one for EXIF, a maker's note, a thumbnail."""
    note = b"NOTE" * 3
    ifd0, exif_ifd, ifd1 = 8, 8 + 2 + 4 * 12 + 4, 8 + 54 + 2 + 3 * 12 + 4
    note_at = ifd1 + 2 + 2 * 12 + 4
    thumbnail_at = note_at + len(note)

    def short(tag, value):
        return struct.pack(order + "HHIHH", tag, 3, 1, value, 0)

    def long(tag, value, kind=4, count=1):
        return struct.pack(order + "HHII", tag, kind, count, value)

    return b"".join(
        [
            {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", ifd0),
            struct.pack(order + "H", 4),
            short(0x0100, 40) + long(0x0101, 30) + short(0x0112, 8) + long(0x8769, exif_ifd),
            struct.pack(order + "I", ifd1),
            struct.pack(order + "H", 3),
            long(0x927C, note_at, 7, len(note)) + short(0xA002, 40) + long(0xA003, 30),
            struct.pack(order + "I", 0),
            struct.pack(order + "H", 2),
            long(0x0201, thumbnail_at) + long(0x0202, len(thumbnail)),
            struct.pack(order + "I", 0),
            note + thumbnail,
        ]
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_another_size_is_otherwise_the_same(order):
    before = tiff_structure(order, b"THUMB")
    after = resized_exif(before, 100000, 70)
    exif = Image.Exif()
    exif.load(after)
    assert exif[0x0112] == 1 and exif[0x0100] == 100000 and exif[0x0101] == 70
    sizes = exif.get_ifd(0x8769)
    assert sizes[0xA002] == 100000 and sizes[0xA003] == 70
    assert sizes[0x927C] == b"NOTE" * 3
    assert exif.get_ifd(1) == {}
    assert b"THUMB" not in after
    assert len(after) == len(before) - 5
    # At most: 2 sizes of 2 directories, the orientation, the link to the thumbnail.
    changed = sum(a != b for a, b in zip(before, after, strict=False))
    assert changed <= 4 * 10 + 10 + 4


@pytest.mark.parametrize("cut", [3, 7, 9, 20, 60])
def test_damaged_exif_is_left_out(cut):
    assert resized_exif(tiff_structure("<", b"T")[:cut], 5, 5) == b""


def test_xmp_of_another_size():
    xmp = (
        b'<a tiff:Orientation="6" tiff:ImageWidth = "40" exif:PixelXDimension=\'40\'/>'
        b"<exif:PixelYDimension>30</exif:PixelYDimension><tiff:ImageLength>30</tiff:ImageLength>"
        b"<tiff:Orientation>8</tiff:Orientation>"
        b"<xmp:Thumbnails><rdf:Alt>AAAA</rdf:Alt></xmp:Thumbnails><dc:title>6</dc:title>"
    )
    assert resized_xmp(xmp, 80, 60) == (
        b'<a tiff:Orientation="1" tiff:ImageWidth = "80" exif:PixelXDimension=\'80\'/>'
        b"<exif:PixelYDimension>60</exif:PixelYDimension><tiff:ImageLength>60</tiff:ImageLength>"
        b"<tiff:Orientation>1</tiff:Orientation>"
        b"<dc:title>6</dc:title>"
    )


def test_the_colour_chunks_of_a_png(tmp_path):
    file = io.BytesIO()
    Image.fromarray(photo(4, 4)).save(file, "PNG")
    content = file.getvalue()
    from esc_arch.imaging.embedding import with_chunks
    from esc_arch.imaging.metadata import Metadata

    chunks = ((b"gAMA", struct.pack(">I", 100000)), (b"sRGB", b"\0"))
    written = b"".join(with_chunks(memoryview(content), Metadata(png_colour=chunks)))
    (tmp_path / "a.png").write_bytes(written)
    assert read_picture(tmp_path / "a.png").metadata.png_colour == chunks
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.info["gamma"] == 1.0
