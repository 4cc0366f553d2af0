"""Shrinking a photo by the rule of MATLAB, against BasicSR's imresize.

    python benchmarks/resize.py [--image FILE] [--json FILE]

One core, one run.  Each round times both on the same 8-bit photo of 2040 x 1356 pixels for
1/2, 1/3 and 1/4; BasicSR's takes and gives floating point, so its conversion from and to
8 bits is left out.  Without an image the pixels are noise, which takes the same time.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from description import description
from rich.console import Console
from rich.table import Table
from timing import seconds

import esc_arch  # noqa: F401  (repairs the import of basicsr, so it comes first)

# isort: split
from basicsr.utils.matlab_functions import imresize as basicsr_imresize

from esc_arch.imaging.codecs import read_image
from esc_arch.imaging.imresize import imresize

HEIGHT, WIDTH = 1356, 2040
FACTORS = (2, 3, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, metavar="FILE", help="a photo (default: noise)")
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = measure(photo(args.image), args.rounds)
    Console(width=100).print(as_table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def photo(path: Path | None) -> np.ndarray:
    if path is None:
        return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    # Any photo will do: repeated and cut to the size.
    return np.resize(read_image(path), (HEIGHT, WIDTH, 3))


def measure(image: np.ndarray, rounds: int) -> dict:
    floating = image.astype(np.float32) / 255
    rows = []
    for factor in FACTORS:
        imresize(image, 1 / factor)
        basicsr_s, ours_s = [], []
        for _ in range(rounds):
            basicsr_s.append(seconds(lambda factor=factor: basicsr_imresize(floating, 1 / factor)))
            ours_s.append(seconds(lambda factor=factor: imresize(image, 1 / factor)))
        basicsr_ms, ours_ms = (1e3 * statistics.median(s) for s in (basicsr_s, ours_s))
        rows.append(
            {
                "scale": f"1/{factor}",
                "basicsr_ms": round(basicsr_ms, 2),
                "esc_arch_ms": round(ours_ms, 2),
                "ratio": round(basicsr_ms / ours_ms, 1),
            }
        )
    return {
        "image": list(image.shape),
        "rounds": rounds,
        **description("numpy", "basicsr"),
        "rows": rows,
    }


def as_table(report: dict) -> Table:
    table = Table(title=f"{WIDTH}x{HEIGHT}, uint8, one core; {report['cpu']}")
    table.add_column("scale")
    for column in ("BasicSR ms", "esc_arch ms", "ratio"):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        table.add_row(
            row["scale"],
            f"{row['basicsr_ms']:.1f}",
            f"{row['esc_arch_ms']:.2f}",
            f"{row['ratio']:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
