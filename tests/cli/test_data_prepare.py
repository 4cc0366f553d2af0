"""``basicsr data prepare`` as a user runs, kills and repeats it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from esc_arch.cli.main import main
from tests.run_python import output_of, start_python

ROOT = Path(__file__).parents[2]
KILLS = 4

# Loads the command once and forks it, as loading takes longer than all runs.
FORKED_RUNS = """
    import json, os, random, signal, sys, time
    from pathlib import Path

    from esc_arch.cli.main import main

    src, work, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    options = ["--scales", "2", "3", "--sub-image", "96", "--step", "48", "--lmdb"]

    # A shell's job in the background, which the tests may be, ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def begin(dest):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            code = main(["data", "prepare", src, "--dest", str(work / dest), *options])
            sys.stdout.flush()
            os._exit(code)
        return pid

    def end(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def processes_at_work():
        names = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes()
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if os.fsencode(src) in command and state != "Z":
                    names.append(entry.name)
        return names

    start = time.monotonic()
    codes = [end(begin("whole"))]
    length_s = time.monotonic() - start

    rng = random.Random(0)
    killed = 0
    for _ in range(kills):
        pid = begin("killed")
        time.sleep(rng.uniform(0.02, 0.3) * length_s)
        os.kill(pid, signal.SIGKILL)
        killed += end(pid) == -signal.SIGKILL
    codes.append(end(begin("killed")))

    pid = begin("stopped")
    # At work, and far from the end, however fast the machine is just now.
    while not list((work / "stopped").rglob("*.png")):
        time.sleep(0.001)
    os.killpg(pid, signal.SIGINT)
    interrupted = end(pid)
    codes.append(end(begin("stopped")))

    # Several tries: killed processes need a moment to end theirs.
    for _ in range(50):
        left = processes_at_work()
        if not left:
            break
        time.sleep(0.1)
    print(json.dumps({"codes": codes, "killed": killed, "interrupted": interrupted, "left": left}))
"""


def images(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        image = cv2.resize(rng.random((20, 25, 3)), (250, 200), interpolation=cv2.INTER_CUBIC)
        noise = rng.normal(0, 0.02, image.shape)
        path = folder / f"im{index:02d}.jpg"
        cv2.imwrite(str(path), (255 * (image + noise).clip(0, 1)).astype(np.uint8))
    return folder


def command(*arguments: object, cwd: Path) -> subprocess.Popen:
    line = [sys.executable, "-m", "esc_arch", "data", "prepare", *map(str, arguments)]
    return subprocess.Popen(
        line,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A killed, a stopped and an uninterrupted run."""
    work = tmp_path_factory.mktemp("prepare")
    forked = start_python(FORKED_RUNS, str(images(work / "src", 30)), str(work), str(KILLS))
    output = output_of(forked)
    return work, json.loads(output.splitlines()[-1]), output


@pytest.fixture(scope="module")
def with_bad(tmp_path_factory):
    """A run with two bad images: its folder, exit code, output and errors."""
    work = tmp_path_factory.mktemp("bad")
    images(work / "bad", 4)
    content = (work / "bad" / "im00.jpg").read_bytes()
    (work / "bad" / "im00.jpg").write_bytes(content[:-2000])
    (work / "bad" / "no image.tif").write_bytes(b"text")
    process = command("bad", "--dest", "out", "--scales", 2, 4, cwd=work)
    out, err = process.communicate(timeout=60)
    return work, process.returncode, out, err


def tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")
    }


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bytes(runs):
    work, report, output = runs
    assert report["codes"] == [0, 0, 0], output
    # Three kills come before the whole time has passed, however much each run has kept.
    assert report["killed"] >= 3
    expected = tree(work / "whole")
    assert len([name for name in expected if name.endswith(".png")]) > 30 * 20
    assert {name for name in expected if name.endswith("data.mdb")} == {
        "HR_sub.lmdb/data.mdb",
        "LR_bicubic/X2_sub.lmdb/data.mdb",
        "LR_bicubic/X3_sub.lmdb/data.mdb",
    }
    assert not [name for name in expected if Path(name).name[0] == "."]
    assert tree(work / "killed") == expected


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_goes_on_later(runs):
    work, report, output = runs
    assert report["interrupted"] == 130
    assert "Stopped. Run the same command again" in output
    assert "Traceback" not in output
    assert tree(work / "stopped") == tree(work / "whole")


@pytest.mark.slow
def test_killed_runs_leave_no_processes(runs):
    assert runs[1]["left"] == []


def test_bad_images_make_the_exit_code_1(with_bad):
    work, code, out, err = with_bad
    assert code == 1
    assert err.count("skipped: ") == 2 and "Traceback" not in err
    assert "skipped: bad/im00.jpg: expected" in err and "skipped: bad/no image.tif: " in err
    assert "out: 3 images; 2 skipped." in out
    assert len(list((work / "out" / "HR").iterdir())) == 3


def test_the_printed_lines_name_what_is_there(with_bad):
    work, _, out, _ = with_bad
    blocks = out.split("For an option file:\n")[1].split("\n\n")
    assert len(blocks) == 2
    for scale, block in zip((2, 4), blocks, strict=True):
        options = yaml.safe_load(block)
        assert options["io_backend"] == {"type": "disk"}
        for path in (work / options["dataroot_gt"]).iterdir():
            name = options["filename_tmpl"].format(path.stem) + path.suffix
            lr = cv2.imread(str(work / options["dataroot_lq"] / name))
            assert lr.shape == (200 // scale, 250 // scale, 3)


def test_wrong_command_lines(tmp_path, capsys):
    out = str(tmp_path / "out")
    images(tmp_path / "src", 1)
    for arguments, says in (
        (["nowhere", "--dest", out], "nowhere: expected a folder of images"),
        ([str(tmp_path / "src"), "--dest", out, "--sub-image", "50"], "--sub-image: expected a"),
        ([str(tmp_path / "src"), "--dest", out, "--scales", "0"], "--scales: expected"),
        ([str(tmp_path), "--dest", out], "--dest: expected"),
    ):
        assert main(["data", "prepare", *arguments]) == 2
        assert says in capsys.readouterr().err
        assert not Path(out).exists()
