"""The exact values of MATLAB's bicubic downscaling."""

import hashlib
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from esc_arch.data.bicubic import imresize

PHOTOS = Path(__file__).parents[3] / "shared" / "data"


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.5, multiplied out."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def mirrored(index: int, size: int) -> int:
    while not 0 <= index < size:
        index = -1 - index if index < 0 else 2 * size - 1 - index
    return index


def resized_line(line: list[int], scale: float) -> list[int]:
    """One row or column: every pixel that the kernel reaches, in a plain loop."""
    out = []
    for position in range(math.ceil(len(line) * scale)):
        centre = (position + 0.5) / scale - 0.5
        total = weights = 0.0
        for index in range(math.floor(centre - 2 / scale) - 1, math.ceil(centre + 2 / scale) + 2):
            weight = cubic((centre - index) * scale)
            total += weight * line[mirrored(index, len(line))]
            weights += weight
        out.append(min(max(math.floor(total / weights + 0.5), 0), 255))
    return out


def by_loop(image: np.ndarray, scale: float) -> np.ndarray:
    planes = []
    for channel in range(image.shape[2]):
        plane = image[..., channel]
        rows = np.array([resized_line(column.tolist(), scale) for column in plane.T]).T
        planes.append(np.array([resized_line(row.tolist(), scale) for row in rows]))
    return np.stack(planes, axis=-1)


@pytest.mark.parametrize("scale", [1, 1 / 2, 1 / 3, 1 / 4, 1 / 8, 2 / 3, 3 / 4, 0.37])
@pytest.mark.parametrize("size", [(17, 24), (1, 5), (6, 1), (1, 1), (12, 12)])
def test_equals_a_plain_loop(size, scale):
    # Only 0 and 255: sums overshoot in both directions and many end near one half.
    image = np.random.default_rng(0).choice([0, 1, 254, 255], (*size, 3)).astype(np.uint8)
    difference = imresize(image, scale).astype(int) - by_loop(image, scale)
    # A sum that is one half but for its last bit may round either way.
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() <= 0.02


@pytest.mark.parametrize("scale", [1 / 2, 1 / 4, 1 / 8])
def test_equals_a_plain_loop_where_sums_are_exact(scale):
    """Of powers of two all weights and sums are exact, so there is one right answer."""
    image = np.random.default_rng(1).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(imresize(image, scale), by_loop(image, scale))


def test_grey_images_keep_their_shape():
    image = np.random.default_rng(2).integers(0, 256, (12, 18, 1), dtype=np.uint8)
    grey = imresize(image[..., 0], 1 / 3)
    assert grey.shape == (4, 6) and grey.flags.c_contiguous
    np.testing.assert_array_equal(grey, imresize(image, 1 / 3)[..., 0])


@pytest.mark.parametrize("scale", range(2, 17))
def test_multiples_of_the_scale_lose_no_pixel_to_rounding(scale):
    for side in (1, 7, 49, 98, 103, 199):
        image = np.zeros((side * scale, scale), np.uint8)
        assert imresize(image, 1 / scale).shape == (side, 1)


def test_the_input_stays_as_it_was():
    image = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    before = image.copy()
    imresize(image[::-1].transpose(1, 0, 2), 1 / 2)
    np.testing.assert_array_equal(image, before)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="uint8"):
        imresize(np.zeros((4, 4)), 0.5)
    for shape in ((4,), (4, 4, 3, 1), (0, 4), (4, 0, 3)):
        with pytest.raises(ValueError, match="H, W"):
            imresize(np.zeros(shape, np.uint8), 0.5)
    for scale in (0, -0.5, 2, float("nan")):
        with pytest.raises(ValueError, match="scale"):
            imresize(np.zeros((4, 4), np.uint8), scale)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no ../shared/data beside the repository")
@pytest.mark.parametrize(
    "path",
    [
        *(f"Set5/LR_bicubic/X{s}/{n}x{s}.png" for n in ("baby", "woman") for s in (2, 3, 4)),
        *(f"Set14/LR_bicubic/X{s}/{n}x{s}.png" for n in ("bridge", "ppt3") for s in (2, 3, 4)),
        *(f"B100/LR_bicubic/X{s}/101085x{s}.png" for s in (2, 3, 4)),
    ],
)
def test_published_lr_images_to_the_bit(path):
    digests = dict(
        line.split("\t")
        for line in (PHOTOS / "LR_PIXELS.tsv").read_text().splitlines()
        if not line.startswith("#")
    )
    folder, scale, name = re.fullmatch(r"(\w+)/LR_bicubic/X(\d)/(.+)x\d\.png", path).groups()
    hr = cv2.imread(str(PHOTOS / folder / "HR" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    height, width = (side - side % int(scale) for side in hr.shape[:2])
    lr = imresize(hr[:height, :width], 1 / int(scale))
    shape = (*lr.shape, 1)[:3]
    digest = hashlib.md5(f"{shape[0]}x{shape[1]}x{shape[2]}:".encode() + lr.tobytes())
    assert digest.hexdigest() == digests[path]
