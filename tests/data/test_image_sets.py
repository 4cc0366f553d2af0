"""Folders and LMDBs seen as one; shapes by headers are those of the decoded images."""

from contextlib import closing

import pytest
from png_cases import pixels, write_png, write_pngs

from esc_arch.data.image_sets import open_image_set
from esc_arch.data.lmdb_reader import DamagedLmdb, MetaLine, parse_meta_line
from esc_arch.data.lmdb_writer import Entry, write_lmdb
from esc_arch.errors import UserError


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
