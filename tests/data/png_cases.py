"""PNG files of known pixels, and processes that are killed."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

FORK = multiprocessing.get_context("fork")


def pixels(seed: int, height: int = 24, width: int = 30, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_png(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def write_pngs(folder: Path, count: int, first_seed: int = 0) -> list[Path]:
    """Of many sizes, so that some lie in the leaves of an LMDB and some have their own pages."""
    rng = np.random.default_rng(first_seed)
    return [
        write_png(
            folder / f"{i:04d}.png",
            pixels(first_seed + i, *(int(n) for n in rng.integers(4, 60, 2))),
        )
        for i in range(count)
    ]


def start(function: Callable[[], object]) -> multiprocessing.Process:
    """Run it in a process of its own, which ends with 1 when it raises."""

    def run() -> None:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)

    process = FORK.Process(target=run)
    process.start()
    return process
