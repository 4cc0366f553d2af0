"""``basicsr upscale`` on a folder: how much of its time is the network's.

    python benchmarks/upscale.py [SRC] [--preset esc_light] [--scale 2] [--json FILE]

Twenty images of 512x384 are enlarged by a network with random parameters, which take as long as
trained ones, or by a file or a shipped model (``-w esc_x2_demo``).  Each round times two things,
one after the other, with the same threads: the network alone, on tensors that are in memory
already; and everything from the files to the files, as the command does it once PyTorch is loaded
and the network built.  Medians count.  What loading takes is the same for one image as for a
thousand, and is printed by itself.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from description import description
from fresh_process import write_json
from rich.console import Console
from rich.table import Table
from timing import seconds

import esc_arch
from esc_arch.checkpoints.conversion import write_safetensors
from esc_arch.imaging.codecs import find_images, read_image
from esc_arch.progress import Progress
from esc_arch.upscale.pipeline import Outcome, upscale_files
from esc_arch.upscale.planning import Existing, plan

HEIGHT, WIDTH, IMAGES = 384, 512, 20
BAR = 1.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("src", type=Path, nargs="?", metavar="SRC", help="folder of photos to cut")
    parser.add_argument("--preset", default="esc_light")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("-w", "--weights", metavar="WEIGHTS", help="instead of a preset's, random")
    parser.add_argument("--formats", nargs="+", default=["png", "jpeg", "webp"])
    parser.add_argument("--images", type=int, default=IMAGES, help=f"default: {IMAGES}")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_images(args.src, work / "in", args.images)
        weights = args.weights
        if weights is None:
            weights = work / f"{args.preset}.safetensors"
            write_safetensors(esc_arch.create(args.preset, args.scale), weights)
        upscaler = esc_arch.Upscaler(weights)
        rows = [measure(upscaler, work, name, args.rounds) for name in args.formats]
        loading_s = seconds(lambda: load_and_run(weights, work))
    report = {
        "network": upscaler.name,
        "images": f"{args.images} of {WIDTH}x{HEIGHT}",
        "rounds": args.rounds,
        **description("opencv-python", "pillow", "numpy"),
        "one_image_in_a_fresh_process_s": round(loading_s, 2),
        "formats": rows,
    }
    Console(width=100).print(as_table(report))
    write_json(args.json, report)
    if max(row["folder_by_network"] for row in rows) > BAR:
        print(f"above the bar of {BAR}", file=sys.stderr)


def make_images(src: Path | None, folder: Path, count: int) -> None:
    """PNG files: cuts of photos, or else something smooth with noise."""
    folder.mkdir()
    photos = []
    for path in find_images(src) if src else ():
        image = read_image(path)
        if image.ndim == 3 and min(image.shape[:2]) >= HEIGHT and image.shape[1] >= WIDTH:
            photos.append(image)
    rng = np.random.default_rng(0)
    for index in range(count):
        if photos:
            image = photos[index % len(photos)]
            top = rng.integers(image.shape[0] - HEIGHT + 1)
            left = rng.integers(image.shape[1] - WIDTH + 1)
            image = image[top : top + HEIGHT, left : left + WIDTH]
        else:
            small = rng.random((HEIGHT // 12, WIDTH // 12, 3))
            image = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            image = (255 * image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index:02d}.png"), image)


def measure(upscaler: esc_arch.Upscaler, work: Path, image_format: str, rounds: int) -> dict:
    images = [
        torch.from_numpy(read_image(path)).permute(2, 0, 1)[None].float() / 255
        for path in find_images(work / "in")
    ]
    network = upscaler.network

    def network_alone() -> None:
        for image in images:
            network(image)

    outcomes = []

    def folder() -> None:
        jobs = plan([str(work / "in")], str(work / "out"), image_format, Existing(True)).jobs
        outcomes.append(Outcome())
        upscale_files(
            jobs,
            upscaler,
            overwrite=True,
            say=print,
            progress=Progress(),
            outcome=outcomes[-1],
        )

    network(images[0])
    folder()  # finds memory and chooses kernels
    times = {"network_s": [], "folder_s": []}
    for _ in range(rounds):
        times["network_s"].append(seconds(network_alone))
        times["folder_s"].append(seconds(folder))
    assert len(outcomes[-1].written) == len(images)
    ratios = [b / a for a, b in zip(times["network_s"], times["folder_s"], strict=True)]
    return {
        "format": image_format,
        **{name: round(statistics.median(values), 2) for name, values in times.items()},
        "folder_by_network": round(statistics.median(ratios), 3),
        "computing_in_folder_s": round(outcomes[-1].network_s, 2),
    }


def load_and_run(weights: Path | str, work: Path) -> None:
    """The command on one small image, from nothing to the end."""
    cv2.imwrite(str(work / "small.png"), np.zeros((8, 8, 3), np.uint8))
    line = [sys.executable, "-m", "esc_arch", "upscale", str(work / "small.png"), "--overwrite"]
    line += ["-o", str(work / "big.png"), "-w", str(weights)]
    subprocess.run(line, check=True, capture_output=True)


def as_table(report: dict) -> Table:
    title = f"{report['network']}, {report['images']}; {report['threads']} threads"
    table = Table(title=f"{title}; {report['cpu']}")
    for column in ("format", "network alone", "folder", "folder by network"):
        table.add_column(column, justify="right")
    for row in report["formats"]:
        table.add_row(
            row["format"],
            f"{row['network_s']:.2f} s",
            f"{row['folder_s']:.2f} s",
            f"{row['folder_by_network']:.3f}",
        )
    seconds_of_one = report["one_image_in_a_fresh_process_s"]
    table.caption = f"One image of 8x8 in a fresh process: {seconds_of_one:.1f} s"
    return table


if __name__ == "__main__":
    main()
