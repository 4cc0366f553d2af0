"""Cuts the training photographs of the shipped networks into crops that have texture.

    python experiments/pretrained_models/crops.py OUT FOLDER [FOLDER ...]

Many free photographs are wallpapers: sky, bokeh, or soft at full size, and patches without
texture teach a network little.  How soft a picture is, is measured by what bicubic x2 loses
on it: a photograph is shrunk by 1, 2 or 3, the first at which half of its crops lose enough,
and of its crops those are kept that lose enough.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from esc_arch.imaging.imresize import imresize

SIDE = 240  # pixels of a crop; LR crops of 120, 80 and 60
STEP = 160
SMALLEST = 192  # smaller pictures give no patch of 48 LR pixels at x4
SOFT_DB = 36.0  # PSNR of bicubic x2 above which a crop has no texture
SUFFIXES = {".png", ".jpg", ".jpeg"}


def main(out: Path, folders: list[Path]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(p for folder in folders for p in folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            sys.exit(f"{path}: expected a photograph; found a file that OpenCV cannot read")
        crops, shrunk = textured_crops(image)
        for place, crop in crops.items():
            cv2.imwrite(str(out / f"{path.parent.name}_{path.stem}_{place}.png"), crop)
        print(f"{path}: shrunk by {shrunk}, {len(crops)} crops", flush=True)


def textured_crops(image: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Crops of an (H, W, 3) uint8 photograph by their place, and what it was shrunk by."""
    for shrunk in (1, 2, 3):
        small = image if shrunk == 1 else imresize(image, 1 / shrunk)
        crops = crops_of(small)
        textured = {place: crop for place, crop in crops.items() if psnr_x2(crop) < SOFT_DB}
        if 2 * len(textured) >= len(crops):
            break
    return textured, shrunk


def crops_of(image: np.ndarray) -> dict[str, np.ndarray]:
    height, width = (side - side % 12 for side in image.shape[:2])
    if min(height, width) < SMALLEST:
        return {}
    return {
        f"{top}_{left}": image[top : top + SIDE, left : left + SIDE][:height, :width]
        for top in starts(height)
        for left in starts(width)
    }


def starts(length: int) -> list[int]:
    last = max(0, length - SIDE)
    return [*range(0, last, STEP), last]


def psnr_x2(crop: np.ndarray) -> float:
    """PSNR in dB of the grey crop after bicubic x1/2 and x2."""
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY).astype(np.float32)
    back = imresize(imresize(grey, 0.5), 2.0)
    return float(10 * np.log10(255**2 / max(np.mean((grey - back) ** 2), 1e-6)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
