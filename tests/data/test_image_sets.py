"""Folders and LMDBs seen as one; shapes by headers are those of the decoded images."""

from contextlib import closing

import cv2
import numpy as np
import pytest
from PIL import Image
from png_cases import pixels, write_png, write_pngs

from esc_arch.data.image_sets import open_image_set
from esc_arch.data.lmdb_reader import DamagedLmdb, MetaLine, parse_meta_line
from esc_arch.data.lmdb_writer import Entry, write_lmdb
from esc_arch.errors import UserError
from esc_arch.imaging.codecs import read_image, shape_of


def test_folder_and_lmdb_hold_the_same(tmp_path):
    sources = write_pngs(tmp_path / "HR", 12)
    write_lmdb(tmp_path / "HR.lmdb", [Entry(source.stem, source) for source in sources])
    folder = open_image_set(tmp_path / "HR")
    with closing(open_image_set(tmp_path / "HR.lmdb")) as packed:
        assert [folder.stem(name) for name in folder.names] == list(packed.names)
        for name, key, source in zip(folder.names, packed.names, sources, strict=True):
            assert folder.read(name) == packed.read(key) == source.read_bytes()
        with pytest.raises(UserError, match="no such key"):
            packed.read("none")
    with pytest.raises(UserError, match=r"none\.png"):
        folder.read("none.png")


def test_shapes_by_header(tmp_path):
    """All kinds of files that decode, turned ones and palettes among them."""
    rgb = Image.fromarray(pixels(0, 20, 30))
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
        deep = pixels(1, 11, 17, channels).astype(np.uint16) * 257
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


def test_cut_off_png(tmp_path):
    content = write_png(tmp_path / "a.png", pixels(0)).read_bytes()
    with pytest.raises(UserError, match=r"a\.png"):
        shape_of(content[:30], "a.png")


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("0001_s001.png (480,470,3) 1", ("0001_s001.png", "0001_s001", (480, 470, 3))),
        ("a.png (4, 5, 1) 1", ("a.png", "a", (4, 5, 1))),
        ("a.png (4,5) 1", ("a.png", "a", (4, 5))),
        ("a.png", ("a.png", "a", None)),
        ("a b.png (4,5,3) 1", ("a b.png", "a b", (4, 5, 3))),
    ],
)
def test_meta_lines(line, parsed):
    assert parse_meta_line(line) == MetaLine(*parsed)


def test_wrong_paths(tmp_path):
    with pytest.raises(UserError, match="found nothing"):
        open_image_set(tmp_path / "none")
    source = write_png(tmp_path / "a.png", pixels(0))
    with pytest.raises(UserError, match="found a file"):
        open_image_set(source)
    (tmp_path / "X.lmdb").mkdir()
    with pytest.raises(DamagedLmdb):
        _ = open_image_set(tmp_path / "X.lmdb").names
