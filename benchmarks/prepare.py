"""``basicsr data prepare``: its time, its memory, and whether kills harm it.

    python benchmarks/prepare.py SRC [--memory] [--kills 50] [--json FILE]

Time: each round runs the baseline, the command, and the command's start-up, one after the
other; medians count.  The baseline is what no such program can do without: as many processes
decode the sources and PNG-encode the HR and LR images that the command makes, with OpenCV.
It writes no file, and gets the LR pixels for nothing; the HR of a source that the command
copies is not encoded.  Its time begins before its processes do.  The command's time is that of
the whole process from nothing to the end, with --scales 2 3 4.  Its start-up is what
its --help takes, the same for one image as for all.

Memory: the highest sum of the proportional set sizes (PSS) of the command's processes, for
300, 1500 and 3000 images, which are links to the sources under other names.  Many of them are
shrunk by PyTorch, which takes memory for itself: so two of the three counts are large.

Kills: the command with --sub-image and --lmdb is killed (SIGKILL) at random moments after its
start-up, and started again, until there were enough kills.  Each time it comes to its end,
the result is compared, byte by byte, with that of an uninterrupted run, and started again.
"""

import argparse
import hashlib
import json
import multiprocessing
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from description import description
from rich.console import Console
from rich.table import Table
from timing import seconds

from esc_arch.data.processes import default_jobs
from esc_arch.files import is_locked
from esc_arch.imaging.codecs import find_images

SCALES = (2, 3, 4)
IMAGES = (300, 1500, 3000)
SAMPLE_INTERVAL_S = 0.1
KILL_OPTIONS = ("--sub-image", "240", "--step", "120", "--lmdb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("src", type=Path, metavar="SRC", help="folder of images")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--memory", action="store_true", help="measure the memory too")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill it N times too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    args = parser.parse_args()
    report = {
        "processes": default_jobs(),
        **description("opencv-python", "pillow", "numpy"),
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        report["time"] = measure_time(args.src, work, args.rounds)
        if args.memory:
            report["memory"] = [measure_memory(args.src, work, count) for count in IMAGES]
        if args.kills:
            report["kills"] = measure_kills(args.src, work, args.kills)
    Console(width=100).print(as_table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def command(src: Path, dest: Path, *options: str) -> list[str]:
    line = [sys.executable, "-m", "esc_arch", "data", "prepare", str(src), "--dest", str(dest)]
    return [*line, "--scales", *map(str, SCALES), *options]


def run(line: list[str]) -> None:
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def measure_time(src: Path, work: Path, rounds: int) -> dict:
    dest = work / "timed"
    run(command(src, dest))
    # The baseline's processes find the pixels in memory, as they are forked.
    images = [Outputs(path, dest) for path in find_images(src)]
    times: dict[str, list[float]] = {"baseline_s": [], "command_s": [], "startup_s": []}
    start_up = [sys.executable, "-m", "esc_arch", "data", "prepare", "--help"]
    for _ in range(rounds):
        times["baseline_s"].append(seconds(lambda: run_baseline(images)))
        shutil.rmtree(dest)
        times["command_s"].append(seconds(lambda: run(command(src, dest))))
        times["startup_s"].append(seconds(lambda: run(start_up)))
    shutil.rmtree(dest)
    medians = {name: statistics.median(values) for name, values in times.items()}
    work_s = medians["command_s"] - medians["startup_s"]
    return {
        "images": len(images),
        "rounds": rounds,
        **{name: round(value, 2) for name, value in medians.items()},
        "command_by_baseline": round(medians["command_s"] / medians["baseline_s"], 2),
        "command_without_startup_by_baseline": round(work_s / medians["baseline_s"], 2),
    }


class Outputs:
    """A source and the pixels of what is made of it."""

    def __init__(self, path: Path, dest: Path) -> None:
        self.path = path
        hr = dest / "HR" / f"{path.stem}.png"
        self.is_copied = hr.read_bytes() == path.read_bytes()
        self.lr = [
            cv2.imread(str(dest / f"LR_bicubic/X{s}/{path.stem}x{s}.png"), cv2.IMREAD_UNCHANGED)
            for s in SCALES
        ]

    def decode_and_encode(self) -> int:
        hr = cv2.imdecode(np.fromfile(self.path, np.uint8), cv2.IMREAD_UNCHANGED)
        outputs = self.lr if self.is_copied else [hr, *self.lr]
        return sum(len(cv2.imencode(".png", image)[1]) for image in outputs)


_images: list[Outputs] = []


def run_baseline(images: list[Outputs]) -> None:
    _images[:] = images
    with multiprocessing.get_context("fork").Pool(default_jobs(), cv2.setNumThreads, (1,)) as pool:
        for _ in pool.imap_unordered(_decode_and_encode, range(len(images)), chunksize=4):
            pass


def _decode_and_encode(index: int) -> int:
    return _images[index].decode_and_encode()


def measure_memory(src: Path, work: Path, count: int) -> dict:
    links, dest = work / "links", work / "measured"
    links.mkdir()
    # Ones of a like size, so that the number of images alone differs.
    paths = sorted(find_images(src), key=lambda path: path.stat().st_size)
    paths = paths[len(paths) // 4 : len(paths) // 2]
    for index in range(count):
        path = paths[index % len(paths)].resolve()
        (links / f"{index:04d}{path.suffix}").symlink_to(path)
    process = subprocess.Popen(command(links, dest), stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, pss_of_tree(process.pid))
        time.sleep(SAMPLE_INTERVAL_S)
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}")
    shutil.rmtree(links)
    shutil.rmtree(dest)
    return {"images": count, "peak_mb": round(peak / 1e6)}


def pss_of_tree(pid: int) -> int:
    """Memory of a process and its children, each shared page counted once, in bytes."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1]) * 1024
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return total  # it has just ended
    return total + sum(pss_of_tree(int(child)) for child in children)


def measure_kills(src: Path, work: Path, kills: int) -> dict:
    dest = work / "killed"
    line = command(src, dest, *KILL_OPTIONS)
    run(line)
    expected = tree(dest)
    shutil.rmtree(dest)
    start = time.monotonic()
    process = begin(line, dest)
    begun = time.monotonic()
    process.wait()
    length_s = time.monotonic() - begun
    rng = random.Random(0)
    report = {"kills": 0, "completed": 1, "differing": int(tree(dest) != expected)}
    print(f"uninterrupted: {begun - start:.1f} s start-up, {length_s:.1f} s work", file=sys.stderr)
    while report["kills"] < kills or not (dest / "prepared.jsonl").exists():
        if (dest / "prepared.jsonl").exists():
            shutil.rmtree(dest)
        process = begin(line, dest)
        try:
            process.wait(rng.uniform(0, 0.7) * length_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            report["kills"] += 1
        else:
            report["completed"] += 1
            report["differing"] += process.returncode != 0 or tree(dest) != expected
    return report


def begin(line: list[str], dest: Path) -> subprocess.Popen:
    """Start the command, and wait until it is at work in ``dest``."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    while process.poll() is None and not is_locked(dest / ".prepare.lock"):
        time.sleep(0.005)
    return process


def tree(root: Path) -> dict[str, str]:
    """The digest of each file."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def as_table(report: dict) -> Table:
    times = report["time"]
    table = Table(title=f"{report['processes']} processes; {report['cpu']}", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("images", str(times["images"]))
    table.add_row("OpenCV decoding and encoding", f"{times['baseline_s']:.2f} s")
    table.add_row("the command", f"{times['command_s']:.2f} s")
    table.add_row("  of which start-up", f"{times['startup_s']:.2f} s")
    table.add_row("the command by OpenCV", f"{times['command_by_baseline']:.2f}")
    table.add_row(
        "without start-up by OpenCV", f"{times['command_without_startup_by_baseline']:.2f}"
    )
    for row in report.get("memory", ()):
        table.add_row(f"peak memory at {row['images']} images", f"{row['peak_mb']} MB")
    if "kills" in report:
        kills = report["kills"]
        table.add_row("kills", str(kills["kills"]))
        table.add_row("completed runs", str(kills["completed"]))
        table.add_row("of which with other bytes", str(kills["differing"]))
    return table


if __name__ == "__main__":
    main()
