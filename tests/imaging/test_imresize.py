"""The exact values of MATLAB's bicubic resizing."""

import hashlib
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.matlab_functions import imresize as basicsr_imresize

from esc_arch.imaging.imresize import imresize

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
    stretch = max(1, 1 / scale)
    for position in range(math.ceil(len(line) * scale)):
        centre = (position + 0.5) / scale - 0.5
        total = weights = 0.0
        for index in range(
            math.floor(centre - 2 * stretch) - 1, math.ceil(centre + 2 * stretch) + 2
        ):
            weight = cubic((centre - index) / stretch)
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
    image = np.zeros((4, 4), np.uint8)
    for wrong in (np.zeros((4, 4), np.int32), np.zeros((4, 4), bool), torch.zeros(4, 4).int()):
        with pytest.raises(TypeError, match="floating point"):
            imresize(wrong, 0.5)
    for shape in ((4,), (4, 4, 3, 1), (0, 4), (4, 0, 3)):
        with pytest.raises(ValueError, match="H, W"):
            imresize(np.zeros(shape, np.uint8), 0.5)
    with pytest.raises(ValueError, match="H, W"):
        imresize(torch.zeros(3, 0, 4), 0.5)
    for scale in (0, -0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="scale"):
            imresize(image, scale)
    for size in ((0, 4), (4, -1), (4,)):
        with pytest.raises(ValueError, match="size"):
            imresize(image, size=size)
    for arguments in ({}, {"scale": 0.5, "size": (2, 2)}):
        with pytest.raises(ValueError, match="either"):
            imresize(image, **arguments)


@pytest.mark.parametrize("scale", [1.5, 2, 3, 4.2])
@pytest.mark.parametrize("size", [(9, 7), (1, 3)])
def test_enlarges_as_a_plain_loop(size, scale):
    image = np.random.default_rng(4).choice([0, 90, 255], (*size, 3)).astype(np.uint8)
    difference = imresize(image, scale).astype(int) - by_loop(image, scale)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() <= 0.02


def test_sixteen_bits_are_rounded_between_the_passes_too():
    """Of 1/4 all sums are exact, so dense matrices give the one right answer."""
    image = np.random.default_rng(5).integers(0, 2**16, (24, 32, 4), dtype=np.uint16)
    out = imresize(image, 1 / 4)
    assert out.dtype == np.uint16 and out.shape == (6, 8, 4)
    exact = matrix(24, 6) @ image.astype(float).reshape(24, -1)
    rows = np.clip(np.floor(exact + 0.5), 0, 65535).reshape(6, 32, 4)
    exact = np.einsum("pw,hwc->hpc", matrix(32, 8), rows)
    np.testing.assert_array_equal(out, np.clip(np.floor(exact + 0.5), 0, 65535))


def matrix(size: int, count: int) -> np.ndarray:
    """The whole pass as a dense matrix, from the loop's own kernel."""
    scale = count / size
    stretch = max(1, 1 / scale)
    dense = np.zeros((count, size))
    for row in range(count):
        centre = (row + 0.5) / scale - 0.5
        for index in range(
            math.floor(centre - 2 * stretch) - 1, math.ceil(centre + 2 * stretch) + 2
        ):
            dense[row, mirrored(index, size)] += cubic((centre - index) / stretch)
    return dense / dense.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(5, 8), (10, 40), (33, 17), (1, 1), (70, 20)])
def test_floating_point_equals_dense_matrices(size):
    image = np.random.default_rng(6).standard_normal((20, 30, 3))
    expected = np.einsum("ph,hwc,qw->pqc", matrix(20, size[0]), image, matrix(30, size[1]))
    out = imresize(image, size=size)
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, expected, atol=1e-12)
    np.testing.assert_allclose(
        imresize(image[..., 1].astype(np.float32), size=size), expected[..., 1], atol=1e-5
    )
    batch = torch.from_numpy(image).movedim(-1, 0).expand(2, 3, 20, 30)
    tensor = imresize(batch, size=size)
    assert tensor.shape == (2, 3, *size) and tensor.is_contiguous()
    np.testing.assert_allclose(tensor[1].movedim(0, -1), expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 2, 0.7])
def test_floating_point_equals_basicsr(scale):
    image = np.random.default_rng(7).random((41, 60, 3), dtype=np.float32)
    np.testing.assert_allclose(imresize(image, scale), basicsr_imresize(image, scale), atol=3e-6)


def test_tensors_are_differentiable():
    image = torch.randn(2, 7, 9, dtype=torch.float64, requires_grad=True)
    for size in ((3, 4), (11, 9)):
        assert torch.autograd.gradcheck(lambda x, size=size: imresize(x, size=size), image)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype):
    image = torch.rand(1, 3, 32, 32).to(dtype)
    out = imresize(image, 1 / 4)
    assert out.dtype == dtype
    torch.testing.assert_close(out, imresize(image.float(), 1 / 4).to(dtype), rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    image = torch.rand(2, 3, 40, 52)
    torch.testing.assert_close(imresize(image.cuda(), 1 / 3).cpu(), imresize(image, 1 / 3))


def test_what_shrinks_more_goes_first():
    image = np.random.default_rng(8).choice([0, 255], (40, 60, 3)).astype(np.uint8)
    turned = imresize(image.swapaxes(0, 1), size=(20, 30))
    np.testing.assert_array_equal(imresize(image, size=(30, 20)), turned.swapaxes(0, 1))
    assert (imresize(image, size=(20, 30)) != imresize(image, 1 / 2)).sum() == 0


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no ../shared/data beside the repository")
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name, count", [("Set5", 5), ("Set14", 14), ("B100", 100)])
def test_published_lr_images_to_the_bit(name, count, scale):
    digests = dict(
        line.split("\t")
        for line in (PHOTOS / "LR_PIXELS.tsv").read_text().splitlines()
        if line.startswith(f"{name}/LR_bicubic/X{scale}/")
    )
    assert len(digests) == count
    for path, expected in digests.items():
        stem = re.fullmatch(rf".+/(.+)x{scale}\.png", path)[1]
        hr = cv2.imread(str(PHOTOS / name / "HR" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
        height, width = (side - side % scale for side in hr.shape[:2])
        lr = imresize(hr[:height, :width], 1 / scale)
        shape = "{}x{}x{}:".format(*(*lr.shape, 1)[:3])
        assert hashlib.md5(shape.encode() + lr.tobytes()).hexdigest() == expected, path
