"""Small test and training sets of made images, laid out as the benchmarks are."""

from pathlib import Path

import cv2
import numpy as np

from esc_arch.imaging.imresize import imresize


def photo(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth colours with edges, (height, width, 3) uint8."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        corners = [tuple(int(v) for v in generator.integers(0, width, 2)) for _ in range(2)]
        colour = [int(v) for v in generator.integers(0, 256, 3)]
        cv2.rectangle(image, *corners, colour, int(generator.integers(1, 4)))
    return image


def make_set(
    folder: Path, scale: int, sizes: list[tuple[int, int]], lr: bool = True, grey: int = -1
) -> None:
    """HR/photoI.png, and with ``lr`` LR_bicubic/X{scale}/photoIx{scale}.png.

    Args:
        sizes: (height, width) of each HR image.
        grey: index of the image that is greyscale; none when -1.
    """
    (folder / "HR").mkdir(parents=True)
    if lr:
        (folder / "LR_bicubic" / f"X{scale}").mkdir(parents=True)
    for index, (height, width) in enumerate(sizes):
        hr = photo(index, height, width)
        if index == grey:
            hr = hr[..., 1].copy()
        cv2.imwrite(str(folder / "HR" / f"photo{index}.png"), hr)
        if lr:
            cropped = hr[: height // scale * scale, : width // scale * scale]
            name = folder / "LR_bicubic" / f"X{scale}" / f"photo{index}x{scale}.png"
            cv2.imwrite(str(name), imresize(cropped, 1 / scale))
