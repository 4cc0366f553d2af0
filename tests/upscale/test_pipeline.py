"""Plans of files, and many files through a network."""

import errno
import itertools
import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import esc_arch
from esc_arch.errors import UserError
from esc_arch.progress import Progress
from esc_arch.upscale import pipeline, planning
from esc_arch.upscale.pipeline import Outcome, upscale_files
from esc_arch.upscale.planning import Existing, Job, plan
from tests.upscale.stand_ins import Repeat, photo, repeated, use


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def targets(*inputs: str, output: str = "out", image_format: str | None = None) -> dict[str, str]:
    jobs = plan(inputs, output, image_format, Existing()).jobs
    return {str(job.source): f"{job.target} {job.format}" for job in jobs}


def test_a_file_to_a_file_or_into_a_folder(here):
    touch("in/ä b.JPG", "scan", "there/x.png")
    name = "in/ä b.JPG"
    assert targets(name, output="big.png") == {name: "big.png png"}
    assert targets(name, output="new/big.Tif") == {name: "new/big.Tif tiff"}
    assert targets(name, output="big/") == {name: "big/ä b.JPG jpeg"}
    assert targets(name, output="there") == {name: "there/ä b.JPG jpeg"}
    assert targets(name, output="there", image_format="png") == {name: "there/ä b.png png"}
    assert targets(name, output="big", image_format="webp") == {name: "big webp"}
    assert targets("scan", output="big/") == {"scan": "big/scan.png png"}
    for output, image_format, says in (
        ("big", None, "-o big: expected an extension"),
        ("v1.5", None, "-o v1.5: expected an extension"),
        ("big.png", "jpeg", "-o big.png: expected an extension of --format jpeg"),
    ):
        with pytest.raises(UserError, match=says):
            targets(name, output=output, image_format=image_format)


def test_folders_keep_their_structure(here):
    touch("in/a.png", "in/sub/deep/b.jpeg", "in/notes.txt", "in/.hidden.png", "in/.git/c.png")
    touch("in/v1.5/d.e.webp", "other/f.bmp")
    assert targets("in", "other/f.bmp") == {
        "in/a.png": "out/a.png png",
        "in/sub/deep/b.jpeg": "out/sub/deep/b.jpeg jpeg",
        "in/v1.5/d.e.webp": "out/v1.5/d.e.webp webp",
        "other/f.bmp": "out/f.bmp bmp",
    }
    assert targets("in", image_format="jpeg") == {
        "in/a.png": "out/a.jpg jpeg",
        "in/sub/deep/b.jpeg": "out/sub/deep/b.jpeg jpeg",
        "in/v1.5/d.e.webp": "out/v1.5/d.e.jpg jpeg",
    }
    # The same twice is once; a folder with one image is a folder.
    assert len(targets("in", "in", "in/a.png")) == 3
    assert targets("other") == {"other/f.bmp": "out/f.bmp bmp"}
    with pytest.raises(UserError, match=r"big.png: expected a folder for the outputs of 3 images"):
        targets("in", output="big.png")
    with pytest.raises(UserError, match=r"a.png: expected a folder for the outputs; found a file"):
        targets("in", output="in/a.png")


def test_patterns(here):
    touch("in/a.png", "in/b.txt", "in/sub/c.png", "in/sub/deep/d.PNG", "in/x[1].png", "x1.png")
    assert targets("in/*") == {
        "in/a.png": "out/a.png png",
        "in/x[1].png": "out/x[1].png png",
        "in/sub/c.png": "out/c.png png",
        "in/sub/deep/d.PNG": "out/deep/d.PNG png",
    }
    assert targets("in/**/*.png") == {
        "in/a.png": "out/a.png png",
        "in/sub/c.png": "out/sub/c.png png",
        "in/x[1].png": "out/x[1].png png",
    }
    assert len(targets("in/**")) == 4
    # A file of such a name is the file.
    assert targets("in/x[1].png", output="o/") == {"in/x[1].png": "o/x[1].png png"}
    assert targets("?1.png", output="big.png") == {"x1.png": "big.png png"}
    for name in ("in/*.gif", "in/**/none.png"):
        with pytest.raises(UserError, match="expected images"):
            targets(name)
    with pytest.raises(UserError, match=r"none.png: expected an image file or a folder"):
        targets("none.png")


def test_links_and_outputs_inside_the_input_do_not_loop(here):
    touch("in/a.png", "in/out/a.png", "in/out/b.png", "elsewhere/c.png")
    os.symlink("..", "in/up")
    os.symlink("../elsewhere", "in/linked")
    found = plan(["in"], "in/out", None, Existing(overwrite=True)).jobs
    names = {str(job.source): str(job.target) for job in found}
    assert names["in/a.png"] == "in/out/a.png"
    assert names["in/linked/c.png"] == "in/out/linked/c.png"
    assert not [name for name in names if name.startswith("in/out/")]
    # In its own place each file would be replaced by its enlargement: it exists.
    with pytest.raises(UserError, match="--overwrite"):
        plan(["elsewhere"], "elsewhere", None, Existing())


def test_the_same_output_twice_is_refused(here):
    touch("in/a.png", "in/a.jpg", "in/b.jpg", "two/a.png")
    with pytest.raises(UserError, match=r"in/a.jpg, in/a.png: expected an output of its own"):
        targets("in", image_format="png")
    with pytest.raises(UserError, match=r"in/a.png, two/a.png: .* found out/a.png for 2"):
        targets("in", "two")
    assert len(targets("in")) == 3


def test_existing_outputs(here):
    touch("in/a.png", "in/b.png", "out/a.png")
    Path("out/c.png").mkdir()
    with pytest.raises(UserError, match=r"out/a.png: expected no such output yet; found 1 of 2"):
        targets("in")
    assert len(plan(["in"], "out", None, Existing(overwrite=True)).jobs) == 2
    skipping = plan(["in"], "out", None, Existing(skip=True))
    assert [str(job.source) for job in skipping.jobs] == ["in/b.png"]
    assert skipping.skipped == (Path("out/a.png"),)
    touch("in/c.png")
    with pytest.raises(UserError, match=r"out/c.png: .*; found a folder"):
        plan(["in"], "out", None, Existing(overwrite=True))
    os.symlink("nowhere", "out/b.png")
    with pytest.raises(UserError, match=r"out/a.png, out/b.png"):
        targets("in/a.png", "in/b.png")


def run(jobs: list[Job], upscaler: object, **options: object) -> tuple[Outcome, list[str], float]:
    outcome, said, told = Outcome(), [], []
    progress = Progress(told.append)
    upscale_files(jobs, upscaler, say=said.append, progress=progress, outcome=outcome, **options)
    return outcome, said, sum(told)


def test_one_bad_file_does_not_stop_the_others(here, monkeypatch):
    use(monkeypatch)
    images = {f"{index}.png": photo(9 + index, 12) for index in range(6)}
    for name, image in images.items():
        Image.fromarray(image).save(name)
    Path("1.png").write_bytes(Path("1.png").read_bytes()[:-40])
    os.unlink("3.png")
    jobs = [Job(Path(name), Path("o", name), "png") for name in images]
    jobs[4] = Job(Path("4.png"), Path("0.png/4.png"), "png")
    outcome, said, told = run(jobs, esc_arch.Upscaler())
    assert outcome.failed == [Path("1.png"), Path("3.png"), Path("4.png")]
    assert [line.split(": ")[1] for line in said] == ["1.png", "3.png", "4.png"]
    assert all(line.startswith("failed: ") for line in said)
    assert outcome.written == [Path("o/0.png"), Path("o/2.png"), Path("o/5.png")]
    assert told == pytest.approx(6)
    assert sorted(os.listdir("o")) == ["0.png", "2.png", "5.png"]
    for name in os.listdir("o"):
        assert np.array_equal(np.asarray(Image.open(f"o/{name}")), repeated(images[name]))


class _Failing(Repeat):
    def forward(self, x):
        if x.shape[-1] == 12:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory\ntrace")
        return super().forward(x)


def test_what_the_network_cannot_do_is_named(here, monkeypatch):
    use(monkeypatch, _Failing())
    for name, width in (("a.png", 12), ("b.png", 13)):
        Image.fromarray(photo(5, width)).save(name)
    Image.fromarray(photo(1, 8192)).save("c.png")
    jobs = [Job(Path(f"{n}.png"), Path(f"{n}.webp"), "webp") for n in "abc"]
    outcome, said, _ = run(jobs, esc_arch.Upscaler())
    assert outcome.written == [Path("b.webp")]
    assert "a.png: expected to enlarge it; found RuntimeError: DefaultCPUAllocator" in said[0]
    assert "c.webp: expected at most 16383 pixels a side" in said[1]


def test_notes_are_said(here, monkeypatch):
    use(monkeypatch)
    Image.fromarray(photo(5, 6, 4)).save("a.png")
    outcome, said, _ = run([Job(Path("a.png"), Path("a.jpg"), "jpeg")], esc_arch.Upscaler())
    assert outcome.written == [Path("a.jpg")]
    assert said == ["note: a.jpg: transparency was laid on white, as JPEG has none"]


def test_what_was_converted_is_said_once(here, monkeypatch):
    use(monkeypatch)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(photo(4, 5)).convert("CMYK").save(name)
    jobs = plan(["a.jpg", "b.jpg"], "out", None, Existing()).jobs
    outcome, said, _ = run(jobs, esc_arch.Upscaler())
    assert len(outcome.written) == 2
    (note,) = said
    assert note.startswith("note: a.jpg: ") and "CMYK" in note


def test_no_room_stops_everything(here, monkeypatch):
    use(monkeypatch)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    Image.fromarray(photo(5, 6)).save("a.png")
    jobs = [Job(Path("a.png"), Path(f"o/{index}.png"), "png") for index in range(20)]
    with pytest.raises(UserError, match=r"No space left on device. Make room"):
        run(jobs, esc_arch.Upscaler())
    assert os.listdir("o") == []


class _Interrupted(Repeat):
    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, x):
        self.images += 1
        if self.images == 4:
            raise KeyboardInterrupt
        return super().forward(x)


def test_ctrl_c_leaves_whole_files_alone(here, monkeypatch):
    use(monkeypatch, _Interrupted())
    Image.fromarray(photo(50, 60)).save("a.png")
    jobs = [Job(Path("a.png"), Path(f"o/{index}.png"), "png") for index in range(9)]
    outcome = Outcome()
    with pytest.raises(KeyboardInterrupt):
        upscale_files(
            jobs,
            esc_arch.Upscaler(),
            say=pytest.fail,
            progress=Progress(),
            outcome=outcome,
        )
    left = sorted(os.listdir("o"))
    assert [str(path) for path in sorted(outcome.written)] == [f"o/{name}" for name in left]
    assert set(left) <= {"0.png", "1.png", "2.png"}
    for name in left:
        assert np.array_equal(np.asarray(Image.open(f"o/{name}")), repeated(photo(50, 60)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("writing")]


def test_reading_computing_and_writing_overlap(here, monkeypatch):
    """Image n is written while the network has n + 1 and n + 2 is being read."""
    count = 8
    together = threading.Barrier(3, timeout=60)

    def meeting(function, first):
        calls = itertools.count(-first)

        def wait_for_the_others(*args, **kwargs):
            if 0 <= next(calls) < count - 2:
                together.wait()
            return function(*args, **kwargs)

        return wait_for_the_others

    network = Repeat()
    network.forward = meeting(network.forward, 1)
    use(monkeypatch, network)
    monkeypatch.setattr(pipeline, "read_picture", meeting(pipeline.read_picture, 2))
    monkeypatch.setattr(pipeline, "write_picture", meeting(pipeline.write_picture, 0))
    Image.fromarray(photo(8, 8)).save("a.png")
    jobs = [Job(Path("a.png"), Path(f"o/{index}.png"), "png") for index in range(count)]
    outcome, _, _ = run(jobs, esc_arch.Upscaler())
    assert len(outcome.written) == count
    assert outcome.network_s > 0


@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_while_a_file_is_written_counts_it(here, monkeypatch, presses):
    use(monkeypatch)
    Image.fromarray(photo(4, 4)).save("a.png")
    plain = pipeline.write_picture

    def pressed(*arguments):
        for _ in range(presses):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments)

    monkeypatch.setattr(pipeline, "write_picture", pressed)
    outcome = Outcome()
    with pytest.raises(KeyboardInterrupt):
        upscale_files(
            [Job(Path("a.png"), Path("b.png"), "png")],
            esc_arch.Upscaler(),
            say=print,
            progress=Progress(),
            outcome=outcome,
        )
    assert outcome.written == [Path("b.png")] and Path("b.png").exists()


def test_images_of_kinds_that_are_not_read_are_counted_and_named(here):
    names = "a.gif b.HEIC c.heic d.nef sub/e.ppm"
    touch("in/x.png", "in/y.jfif", "in/z.JPE", "in/notes.txt", "in/film.mp4", *(
        f"in/{name}" for name in names.split()
    ))  # fmt: skip
    for inputs in (["in"], ["in/*", "in/sub/*"], ["in/**"]):
        made = plan(inputs, "out", None, Existing())
        assert [job.source.name for job in made.jobs] == ["x.png", "y.jfif", "z.JPE"]
        assert [job.format for job in made.jobs] == ["png", "jpeg", "jpeg"]
        for said in ("1 .gif", "2 .heic", "1 .nef", "1 .ppm", *names.split()):
            assert said in made.unread
        assert not {"notes", "mp4"} & set(re.findall(r"\w+", made.unread))
    with pytest.raises(UserError, match=r"found none.*1 \.ppm.*e\.ppm"):
        plan(["in/sub"], "out", None, Existing())


def test_an_input_is_never_an_output(here):
    touch("in/a.png", "in/b.jpg")
    os.symlink("in", "same")
    os.symlink("../in/a.png", "in/link.png")
    for inputs, output in (
        (["in"], "in"),
        (["in"], "same"),
        (["in/a.png"], "in/a.png"),
        (["in/a.png", "in/b.jpg"], "in/"),
        (["in/link.png"], "in/a.png"),
    ):
        for existing in (Existing(), Existing(overwrite=True), Existing(skip=True)):
            with pytest.raises(UserError, match="none of the inputs"):
                plan(inputs, output, None, existing)
    assert len(plan(["in/a.png"], "in", "webp", Existing()).jobs) == 1


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("x" * 300 + ".png", "too long.*shorter name"),
        ("new/" + "x" * 300 + "/", "too long.*shorter name"),
        ("a.png/b.png", "Not a directory"),
        ("a.png/new/b.png", "Not a directory"),
        ("/proc/b.png", "No such file"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_at_once(here, output, says):
    touch("a.png")
    with pytest.raises(UserError, match=says) as caught:
        targets("a.png", output=output)
    assert "room" not in str(caught.value)
    assert os.listdir() == ["a.png"]


def test_a_read_only_file_system_and_a_forbidden_folder(here, monkeypatch):
    touch("a.png")
    for number, says in (
        (errno.EROFS, "file system that can be written"),
        (errno.EACCES, "permissions"),
        (errno.ENOSPC, "Make room"),
    ):

        def refuse(number=number, **kwargs):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(planning.tempfile, "TemporaryFile", refuse)
        with pytest.raises(UserError, match=f"a.png.*{os.strerror(number)}.*{says}") as caught:
            targets("a.png", output="out/new/sub/../")
        assert ("Make room" in str(caught.value)) == (number == errno.ENOSPC)


def test_the_advice_for_one_output_of_two_inputs_helps(here):
    touch("one/a.png", "two/a.png", "one/b.jpg", "one/b.png")
    with pytest.raises(UserError, match="own") as caught:
        targets("one/a.png", "two/a.png")
    assert "--format" not in str(caught.value)
    with pytest.raises(UserError, match="Leave out --format"):
        targets("one/b.jpg", "one/b.png", image_format="png")
    with pytest.raises(UserError, match="own") as caught:
        targets("one/a.png", "two/a.png", image_format="webp")
    assert "--format" not in str(caught.value)
