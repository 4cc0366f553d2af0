"""calculate_psnr_lte against BasicSR's PSNR of luma, and a value worked out by hand."""

import math

import numpy as np
import pytest
from basicsr.metrics import calculate_metric, calculate_psnr

from esc_arch import UserError, calculate_psnr_lte


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 256, (31, 27, 3)).astype(np.float32)
    return np.clip(hr + rng.normal(0, 9, hr.shape), 0, 255).astype(np.float32), hr


@pytest.mark.parametrize(("scale", "shave"), [(2, 2), (3.3, 4), (4.0, 4), (1, 0)])
def test_it_is_basicsrs_psnr_of_luma_without_rounding(images, scale, shave):
    """Whose weights are the same to five digits, times 255 / 256 of another divisor."""
    expected = calculate_psnr(*images, crop_border=shave, test_y_channel=True)
    assert calculate_psnr_lte(*images, scale=scale) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("channel", "weight"), [(2, 65.738), (1, 129.057), (0, 25.064)])
def test_a_difference_of_one_colour(channel, weight):
    """Images are BGR."""
    hr = np.zeros((8, 9, 3), np.float32)
    sr = hr.copy()
    sr[..., channel] = 51
    expected = -20 * math.log10(51 / 255 * weight / 256)
    assert calculate_psnr_lte(sr, hr, scale=2) == pytest.approx(expected, abs=1e-6)


def test_the_border_does_not_count(images):
    _, hr = images
    sr = hr.copy()
    sr[:3], sr[:, -3:] = 0, 255
    assert calculate_psnr_lte(sr, hr, scale=3) == math.inf
    assert calculate_psnr_lte(sr, hr, scale=2) < 30


def test_an_image_of_which_nothing_is_left():
    image = np.zeros((12, 40, 3), np.float32)
    with pytest.raises(UserError, match="more than 12 pixels at scale 6; found 40x12"):
        calculate_psnr_lte(image, image, scale=6)


def test_option_files_name_it(images):
    data = dict(zip(("img", "img2"), images, strict=True))
    section = {"type": "calculate_psnr_lte", "scale": 2, "better": "higher"}
    assert calculate_metric(data, section) == calculate_psnr_lte(*images, scale=2)
