"""``basicsr upscale`` as a user calls it."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esc_arch.checkpoints.locations import shipped_folder
from esc_arch.cli.main import main
from tests.run_python import start_python
from tests.upscale.stand_ins import photo, repeated, use

SHIPPED = shipped_folder() / "small.safetensors"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, path=SHIPPED)
    Path("in").mkdir()
    for name in ("a.png", "b c.png"):
        Image.fromarray(photo(8, 10)).save(f"in/{name}")
    return tmp_path


def test_a_photo_to_a_bigger_photo(here, capsys):
    assert main(["upscale", "in/a.png", "-o", "big.png"]) == 0
    assert np.array_equal(np.asarray(Image.open("big.png")), repeated(photo(8, 10)))
    printed = capsys.readouterr()
    first = printed.err.splitlines()[0]
    assert first.startswith(f"{SHIPPED}: repeat x2, float32 on cpu")
    assert "demonstration model" in first
    assert printed.out == "big.png: 1 of 1 image\n"


def test_weights_of_the_user_are_not_called_a_demonstration(here, monkeypatch, capsys):
    use(monkeypatch, path=Path("mine.pth"))
    assert main(["upscale", "in/a.png", "-o", "big.png", "--scale", "1.5"]) == 0
    assert Image.open("big.png").size == (15, 12)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "mine.pth: repeat x2, float32 on cpu, resized to x1.5"


def test_bad_files_give_1_and_are_named(here, capsys):
    Path("in/bad.jpg").write_bytes(b"no image")
    assert main(["upscale", "in", "-o", "out", "--format", "jpg", "--quality", "80"]) == 1
    printed = capsys.readouterr()
    assert "failed: in/bad.jpg: expected an image" in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == "out: 2 of 3 images; 1 failed\n"
    assert sorted(os.listdir("out")) == ["a.jpg", "b c.jpg"]


def test_a_result_that_is_no_number_is_not_written(here, monkeypatch, capsys):
    def dark_is_none(x):
        return (x * 0 / x.amax()).repeat_interleave(2, -1).repeat_interleave(2, -2)

    use(monkeypatch, dark_is_none, path=SHIPPED)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save("in/black.png")
    assert main(["upscale", "in", "-o", "out"]) == 1
    printed = capsys.readouterr()
    assert "failed: in/black.png: expected" in printed.err and "NaN" in printed.err
    assert printed.out == "out: 2 of 3 images; 1 failed\n"
    assert sorted(os.listdir("out")) == ["a.png", "b c.png"]


def test_16_bits_in_a_mixed_folder(here, capsys):
    deep = photo(8, 10, 1, np.uint16)
    for name in ("deep", "deeper"):
        Image.fromarray(deep).save(f"in/{name}.png")
    assert main(["upscale", "in", "-o", "out", "--dtype", "bfloat16"]) == 0
    assert np.array_equal(np.asarray(Image.open("out/deep.png")), repeated(deep))
    assert capsys.readouterr().err.count("16 bits") == 1


def test_existing_outputs(here, capsys):
    assert main(["upscale", "in", "-o", "out"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    capsys.readouterr()
    assert main(["upscale", "in", "-o", "out"]) == 2
    assert "out/a.png, out/b c.png: expected no such output yet" in capsys.readouterr().err
    os.unlink("out/a.png")
    assert main(["upscale", "in", "-o", "out", "--skip-existing"]) == 0
    assert "skipped: 1 whose output is there already" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in Path("out").iterdir() if p.name != "a.png"} == {
        p: t for p, t in before.items() if p.name != "a.png"
    }
    assert main(["upscale", "in", "-o", "out", "--skip-existing"]) == 0
    assert main(["upscale", "in", "-o", "out", "--overwrite"]) == 0
    assert all(p.stat().st_mtime_ns > t for p, t in before.items())


def test_ctrl_c_gives_130(here, monkeypatch, capsys):
    from esc_arch.upscale import pipeline

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "check_size", interrupt)
    assert main(["upscale", "in", "-o", "out"]) == 130
    assert "Stopped: 0 of 2 images were written" in capsys.readouterr().err
    assert not Path("out").exists() or os.listdir("out") == []


RUN = "import sys; from esc_arch.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_a_real_ctrl_c_leaves_whole_images_and_the_rest_can_be_done(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(60):
        Image.fromarray(photo(90, 120)).save(tmp_path / "in" / f"{number}.png")
    line = ["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    process = start_python(RUN, *line)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "out" / "0.png").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in said, said
    written = os.listdir(tmp_path / "out")  # with what is half done, if there were any
    assert f"Stopped: {len(written)} of 60 images were written." in said
    assert 0 < len(written) < 60
    for name in written:
        assert np.asarray(Image.open(tmp_path / "out" / name)).shape == (180, 240, 3)
    assert main([*line, "--skip-existing"]) == 0
    assert len(os.listdir(tmp_path / "out")) == 60


@pytest.mark.parametrize(
    "options",
    [
        ["--quality", "0"],
        ["--quality", "101"],
        ["--format", "gif"],
        ["--memory", "2 bananas"],
        ["--memory", "0"],
        ["--tile", "0"],
        ["--dtype", "int8"],
        ["--overwrite", "--skip-existing"],
        ["--scale", "large"],
    ],
)
def test_wrong_options(here, options, capsys):
    with pytest.raises(SystemExit) as end:
        main(["upscale", "in", "-o", "out", *options])
    assert end.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_wrong_values(here, capsys):
    for options, says in (
        (["--scale", "0"], "scale: expected a number above 0"),
        (["--scale", "nan"], "scale: expected a number above 0"),
        (["--device", "abacus"], "device: expected one that PyTorch can use here"),
        (["--dtype", "fp16"], "dtype: expected fp32, bf16 of repeat x2"),
    ):
        assert main(["upscale", "in", "-o", "out", *options]) == 2
        assert says in capsys.readouterr().err
        assert not Path("out").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("2G", 2 << 30), ("1.5 GiB", 3 << 29), ("800mb", 800 << 20), ("64k", 1 << 16)],
)
def test_sizes_of_memory(here, monkeypatch, text, size):
    from esc_arch.upscale import upscaler

    class Seen(Exception):
        pass

    def see(*args, memory, **kwargs):
        assert memory == size
        raise Seen

    monkeypatch.setattr(upscaler, "Upscaler", see)
    with pytest.raises(Seen):
        main(["upscale", "in", "-o", "out", "--memory", text])
