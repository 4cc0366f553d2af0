"""``basicsr data lmdb``, ``verify`` and ``stats`` as a user runs them."""

import re
import shutil

import cv2
import numpy as np
import pytest

from esc_arch.cli.main import main


@pytest.fixture
def images(tmp_path, monkeypatch):
    """HR/a.png, ... of 40 x 30 pixels and LR/ax2.png, ..."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, suffix, size in (("HR", "", (30, 40)), ("LR", "x2", (15, 20))):
        (tmp_path / folder).mkdir()
        for name in "abc":
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            assert cv2.imwrite(f"{folder}/{name}{suffix}.png", image)
    return tmp_path


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main(["data", *arguments])
        return code, *capsys.readouterr()

    return run


def test_pack_and_verify(images, run):
    assert run("lmdb", "HR") == (0, "HR.lmdb: 3 images\n", "")
    code, out, _ = run("lmdb", "LR/", "-o", "small.lmdb")
    assert code == 0 and out.splitlines() == [
        "keys: names without x2, such as a for ax2.png",
        "small.lmdb: 3 images",
    ]
    assert (images / "small.lmdb/meta_info.txt").read_text() == "".join(
        f"{name}.png (15,20,3) 1\n" for name in "abc"
    )
    code, out, _ = run("lmdb", "HR")
    assert code == 0 and "nothing to do" in out
    for hr, lq in (("HR", "LR"), ("HR.lmdb", "small.lmdb")):
        code, out, err = run("verify", hr, "--lq", lq, "--scale", "2", "--jobs", "1")
        assert code == 0 and "problem:" not in out and err == ""


def test_names_as_they_are(images, run):
    assert run("lmdb", "LR", "--strip", "")[:2] == (0, "LR.lmdb: 3 images\n")
    assert (images / "LR.lmdb/meta_info.txt").read_text().startswith("ax2.png ")
    shutil.copy("HR/a.png", "LR/d.png")
    code, out, _ = run("lmdb", "LR")
    assert (code, out) == (0, "LR.lmdb: 4 images\n")
    code, _, err = run("lmdb", "LR", "--strip", "x2")
    assert code == 2 and "LR/d.png" in err


def test_here(images, run, monkeypatch):
    monkeypatch.chdir(images / "HR")
    assert run("lmdb", ".")[0] == 0
    assert (images / "HR.lmdb/data.mdb").is_file()


def test_nothing_is_written_for_a_bad_image(images, run):
    content = (images / "HR/b.png").read_bytes()
    (images / "HR/b.png").write_bytes(content[:-40])
    (images / "HR/c.png").write_bytes(b"text")
    code, _, err = run("lmdb", "HR")
    assert code == 2 and err.startswith("basicsr: HR/b.png:") and "HR/c.png:" in err
    assert sorted(p.name for p in images.iterdir()) == ["HR", "LR"]


def test_jpeg_goes_in_unchanged(images, run):
    cv2.imwrite("HR/d.jpg", np.full((30, 40, 3), 77, np.uint8))
    assert run("lmdb", "HR")[0] == 0
    assert (images / "HR/d.jpg").read_bytes() in (images / "HR.lmdb/data.mdb").read_bytes()
    assert run("verify", "HR.lmdb")[0] == 0


def test_many_problems_are_cut(images, run):
    for i in range(30):
        (images / f"HR/bad{i:02d}.png").write_bytes(b"text")
    shutil.copy("HR/a.png", "HR/z.png")
    code, out, _ = run("verify", "HR")
    assert code == 1
    assert out.count("problem: HR/bad") == 20 and "10 more of this kind" in out
    assert "note: the same pixels: HR/a.png, HR/z.png" in out
    assert re.search(r"HR +│ +34 │ .* │ +30 │", out)


def test_notes_alone_are_fine(images, run):
    shutil.copy("HR/a.png", "HR/z.png")
    assert run("verify", "HR")[0] == 0


def test_stats(images, run):
    code, out, _ = run("stats", "HR", "--gt-size", "30", "31")
    assert code == 0
    flat = " ".join(out.split())
    assert "40/40/40" in flat and "30/30/30" in flat and "RGB, 8 bit: 3" in flat
    assert "│ gt_size 30 │ fits" in flat and "│ gt_size 31 │ 3 too small: a.png, b.png" in flat
    mean = np.mean([cv2.imread(f"HR/{name}.png")[..., ::-1] for name in "abc"], axis=(0, 1, 2))
    assert " ".join(f"{value / 255:.4f}" for value in mean) in flat


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lmdb", "none"], "none: expected a folder"),
        (["lmdb", "HR", "-o", "HR.mdb"], "ends in .lmdb"),
        (["lmdb", "."], "below it, first in"),
        (["verify", "none"], "none: expected a folder"),
        (["verify", "HR/a.png"], "found a file"),
        (["verify", "HR", "--lq", "LR"], "--lq and --scale together"),
        (["verify", "HR", "--lq", "LR", "--scale", "0"], "--scale: expected 1 or more"),
        (["stats", "none"], "none: expected a folder"),
        (["stats", "HR", "--gt-size", "0"], "--gt-size: expected 1 or more"),
    ],
)
def test_mistakes(images, run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2 and message in err and "Traceback" not in err
