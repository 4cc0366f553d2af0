"""``basicsr data lmdb``, ``verify`` and ``stats`` as a user runs them."""

import os
import re
import resource
import shutil
from multiprocessing import active_children
from pathlib import Path

import cv2
import numpy as np
import pytest

from esc_arch.cli.main import main
from esc_arch.data import lmdb_writer
from esc_arch.data.prepare import run as prepare_run
from esc_arch.files import locked
from tests.run_python import output_of, start_python

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def odd_files(images):
    """Beside the images what is no file, what is another kind, and names that hold commands."""
    os.mkfifo("HR/pipe.png")
    os.symlink("/dev/zero", "HR/zero.png")
    for name in ("moving.gif", "phone.heic", "web.avif"):
        Path("HR", name).write_bytes(b"x")
    shutil.copy("HR/a.png", "HR/red\x1b[31m.png")
    shutil.copy("HR/a.png", "HR/[red].png")
    Path("HR/bad\x1b[31m.png").touch()
    return images


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "HR"),
        ("stats", "HR"),
        ("lmdb", "HR", "-o", "new/folder/x.lmdb"),
        ("prepare", "HR", "--dest", "made", "--scales", "2"),
    ],
)
def test_what_is_no_image_is_named(odd_files, capfd, arguments):
    # lmdb makes nothing of a folder with a bad image.
    assert main(["data", *arguments]) == (2 if arguments[0] == "lmdb" else 1)
    text = "".join(capfd.readouterr())
    assert "\x1b" not in text
    for name in ("pipe.png", "zero.png", "moving.gif", "phone.heic", "web.avif", "bad\\x1b[31m"):
        assert name in text
    assert "1 .avif, 1 .gif, 1 .heic" in text
    if arguments[0] == "prepare":
        assert len(os.listdir("made/LR_bicubic/X2")) == 5


def test_an_lmdb_is_made_in_a_new_folder_and_tells_what_is_below(images, run):
    Path("HR/more").mkdir()
    shutil.copy("HR/a.png", "HR/more/d.png")
    code, out, err = run("lmdb", "HR", "-o", "new/folder/x.lmdb")
    assert (code, out) == (0, "new/folder/x.lmdb: 3 images\n") and "1 images" in err
    assert "HR/more/d.png" in err


def test_a_folder_of_other_kinds_alone_says_which(images, run):
    Path("phone").mkdir()
    Path("phone/one.heic").touch()
    code, _, err = run("prepare", "phone", "--dest", "made")
    assert code == 2 and "phone/one.heic" in err and not Path("made").exists()


def test_names_are_no_markup_of_the_tables(images, run):
    Path("HR").rename("[red]HR")
    for command in ("verify", "stats"):
        assert "[red]HR" in run(command, "[red]HR")[1]


def test_what_training_refuses_of_a_prepared_folder_is_found(images, run):
    assert run("prepare", "HR", "--dest", "made", "--scales", "2")[0] == 0
    assert run("verify", "made")[0] == 0
    Path("made/HR/notes.txt").touch()
    code, out, _ = run("verify", "made")
    assert code == 1 and "made/HR: " in out and "notes.txt" in out


def test_images_that_are_smaller_than_a_crop_are_found(images, run):
    cv2.imwrite("HR/a.png", np.zeros((24, 40, 3), np.uint8))
    assert run("prepare", "HR", "--dest", "made", "--scales", "2")[0] == 0
    assert run("verify", "made", "--gt-size", "24")[0] == 0
    code, out, _ = run("verify", "made", "--gt-size", "26")
    assert code == 1 and "made/HR: " in out and "a (40x24)" in out
    assert "made/LR_bicubic/X2: " in out and "ax2 (20x12)" in out


def test_sides_to_test_with_are_a_note(images, run):
    cv2.imwrite("HR/a.png", np.zeros((31, 41, 3), np.uint8))
    code, out, _ = run("verify", "HR", "--lq", "LR", "--scale", "2")
    assert code == 0 and "multiples of 2" in out and "1 others: a" in out


@pytest.mark.parametrize(
    "arguments", [("lmdb", "HR", "-o"), ("prepare", "HR", "--lmdb", "--scales", "2", "--dest")]
)
def test_a_place_that_cannot_be_written_is_refused_before_an_image_is_read(
    images, run, arguments, monkeypatch
):
    monkeypatch.setattr(lmdb_writer, "decode", None)
    monkeypatch.setattr(prepare_run, "decode", None)
    Path("file").touch()
    for place in ("file/x.lmdb", "/proc/self/x.lmdb"):
        code, _, err = run(*arguments, place)
        assert code == 2 and "x.lmdb" in err and "found" in err


def test_the_lock_and_the_room_come_before_the_images(images, run, monkeypatch):
    monkeypatch.setattr(lmdb_writer, "decode", None)
    with locked(images / ".HR.lmdb.lock"):
        code, _, err = run("lmdb", "HR")
        assert code == 2 and f"process {os.getpid()}" in err
    monkeypatch.setattr(lmdb_writer, "free_bytes", lambda folder: 1000)
    code, _, err = run("lmdb", "HR")
    assert code == 2 and "room" in err


@pytest.mark.parametrize("command", ["verify", "stats", "lmdb"])
def test_processes_that_cannot_be_started_are_one_message(images, run, command):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 4, limits[1]))
    try:
        code, _, err = run(command, "HR", "--jobs", "30")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert code == 2 and "--jobs" in err and "Too many open files" in err
    assert not active_children()


def test_any_name_in_the_locale_of_c(images):
    """Also names that are no text."""
    shutil.copy("HR/a.png", "HR/山 ü.png")
    shutil.copy("HR/a.png", b"HR/\xff.png")
    commands = [
        ["prepare", "HR", "--dest", "mäde", "--scales", "2", "--lmdb"],
        ["verify", "mäde"],
        ["stats", "mäde"],
        ["lmdb", "HR"],
    ]
    code = f"""
        import os
        from esc_arch.cli.main import main
        for command in {commands!a}:
            command = [os.fsdecode(argument.encode()) for argument in command]
            assert main(["data", *command]) == 0
    """
    output_of(start_python(code, LC_ALL="C", PYTHONUTF8="0", PYTHONPATH=str(ROOT)))
    keys = [line.split(".")[0] for line in Path("HR.lmdb/meta_info.txt").read_text().splitlines()]
    assert sorted(keys) == ["%E5%B1%B1%20%C3%BC", "%FF", "a", "b", "c"]
    prepared = Path("mäde/HR.lmdb/meta_info.txt").read_text()
    assert prepared == Path("HR.lmdb/meta_info.txt").read_text()
