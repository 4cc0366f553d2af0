"""Small real images for the checks of data."""

from pathlib import Path

import cv2
import numpy as np

# Height and width of the HR images; each side is a multiple of 2.
SIZES = {"a": (24, 32), "b": (20, 20), "c": (16, 18)}


def write_images(folder: Path, names_and_sizes: dict[str, tuple[int, int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (height, width) in names_and_sizes.items():
        assert cv2.imwrite(str(folder / name), np.full((height, width, 3), 90, np.uint8))
