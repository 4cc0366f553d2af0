"""Counts, sizes and exact means against a plain computation with NumPy."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from png_cases import pixels, write_png

from esc_arch.data.lmdb_writer import Entry, write_lmdb
from esc_arch.data.statistics import TooSmall, measure
from esc_arch.errors import UserError


@pytest.fixture
def images(tmp_path):
    """Grey, RGB, RGBA, 8 and 16 bits, of different sizes."""
    made = {
        "a.png": pixels(0, 20, 31),
        "b.png": pixels(1, 33, 18),
        "c.png": pixels(2, 25, 25, 1),
        "d.png": pixels(3, 40, 19, 4),
        "e.png": pixels(4, 18, 50).astype(np.uint16) * 251,
    }
    for name, image in made.items():
        write_png(tmp_path / "HR" / name, image)
    return made


def plain_mean(images) -> list[Fraction]:
    """Of rational numbers, so without any rounding."""
    totals, count = [Fraction(0)] * 3, 0
    for image in images:
        white = 255 if image.dtype == np.uint8 else 65535
        colour = np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image[..., 2::-1]
        flat = colour.reshape(-1, 3).tolist()
        totals = [
            t + Fraction(sum(c), white)
            for t, c in zip(totals, zip(*flat, strict=True), strict=True)
        ]
        count += len(flat)
    return [total / count for total in totals]


def test_against_numpy(tmp_path, images):
    (found,) = measure(tmp_path / "HR", [18, 19, 26], 2)
    assert found.images == 5
    assert found.bytes == sum(p.stat().st_size for p in (tmp_path / "HR").iterdir())
    assert found.width == (18, 25, 50) and found.height == (18, 25, 40)
    assert found.smallest == ("b.png", 18, 33)
    assert found.kinds == {"RGB, 8 bit": 2, "grey, 8 bit": 1, "RGBA, 8 bit": 1, "RGB, 16 bit": 1}
    assert found.mean == tuple(float(value) for value in plain_mean(images.values()))
    assert found.too_small == [
        TooSmall(18, 18, []),
        TooSmall(19, 19, ["b.png", "e.png"]),
        TooSmall(26, 26, ["a.png", "b.png", "c.png", "d.png", "e.png"]),
    ]


def test_lmdb_and_number_of_processes(tmp_path, images):
    path = tmp_path / "X.lmdb"
    write_lmdb(path, [Entry(name[:-4], tmp_path / "HR" / name) for name in images])
    (folder,), (packed,) = measure(tmp_path / "HR", [19], 3), measure(path, [19], 1)
    assert packed.mean == folder.mean and packed.kinds == folder.kinds
    assert packed.bytes == folder.bytes and packed.width == folder.width
    assert packed.smallest == ("b", 18, 33)


def test_lr_crops_are_smaller(tmp_path, images):
    for name, image in images.items():
        small = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2))
        write_png(tmp_path / f"LR_bicubic/X2/{name[:-4]}x2.png", small)
    high, low = measure(tmp_path, [20], 2)
    assert (high.name, low.name) == ("HR", "LR_bicubic/X2")
    assert high.too_small == [TooSmall(20, 20, ["b.png", "d.png", "e.png"])]
    assert low.too_small == [TooSmall(20, 10, ["bx2.png", "dx2.png", "ex2.png"])]


def test_what_cannot_be_measured(tmp_path, images):
    with pytest.raises(UserError, match="found nothing"):
        measure(tmp_path / "none", [20], 1)
    (tmp_path / "HR/b.png").write_bytes(b"text")
    (measured,) = measure(tmp_path / "HR", [20], 2)
    assert measured.images == len(images) - 1
    (reason,) = measured.unreadable
    assert "b.png: expected an image" in reason
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/b.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"b\.png: .* No image of .*bad can be read"):
        measure(tmp_path / "bad", [20], 2)
    (tmp_path / "X.lmdb").mkdir()
    with pytest.raises(UserError, match=r"X\.lmdb"):
        measure(tmp_path / "X.lmdb", [20], 1)
