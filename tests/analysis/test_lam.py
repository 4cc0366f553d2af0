"""Local attribution maps: the public code's numbers, a float64 form by differences, known cases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from esc_arch.analysis.lam import (
    Window,
    blur_path,
    diffusion_index,
    local_attribution,
    most_textured_window,
)
from esc_arch.archs import ESC
from esc_arch.errors import UserError
from tests.reference_cases import fill_parameters

SHARED = Path(__file__).parents[3] / "shared"
CASES = SHARED / "reference" / "lam_cases.json"


@pytest.mark.slow
@pytest.mark.skipif(not CASES.is_file(), reason="no ../shared/reference/lam_cases.json")
def test_maps_of_the_public_code():
    for case in json.loads(CASES.read_text()):
        network = fill_parameters(ESC(**case["kwargs"])).eval()
        image = Image.open(SHARED / "data" / case["image"]).convert("RGB").crop(case["crop"])
        sides = (image.width // case["scale"], image.height // case["scale"])
        lr = np.asarray(image.resize(sides, Image.Resampling.BICUBIC), np.float32) / 255
        found = local_attribution(network, lr, Window(case["x"], case["y"], case["window"]))
        assert diffusion_index(found) == pytest.approx(case["diffusion_index"], abs=1e-3)
        assert found.sum() == pytest.approx(case["map_sum"], rel=1e-4)
        assert list(np.unravel_index(found.argmax(), found.shape)) == case["top"]


def small_network():
    """x2, neither linear nor symmetric, differentiable everywhere."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 12, 3, padding=1), nn.PixelShuffle(2)
    ).requires_grad_(False)


def texture_of(results, window):
    """Of each result of a batch, in float64, pixel by pixel."""
    found = np.zeros(len(results))
    for y in range(window.y, window.y + window.size):
        for x in range(window.x, window.x + window.size):
            down = results[:, :, y, x] - results[:, :, y + 1, x]
            right = results[:, :, y, x] - results[:, :, y, x + 1]
            found += np.sqrt(down**2 + right**2).sum(1)
    return found


def steps(lr):
    """The path by SciPy: images and derivatives, in float64."""
    axis = np.arange(-4, 5)
    kernels = []
    for sigma in np.linspace(1.2, 0, 51):
        exponent = (axis[:, None] ** 2 + axis[None] ** 2) / (2 * (sigma + 1e-5) ** 2)
        kernels.append(np.exp(-exponent) / np.exp(-exponent).sum())

    def filtered(kernel):
        return np.stack([ndimage.correlate(p, kernel, mode="mirror") for p in lr], 0)

    for i in range(50):
        yield filtered(kernels[i + 1]), filtered(50 * (kernels[i + 1] - kernels[i]))


def gradient_by_differences(network, image, window, step=1e-5):
    moves = step * np.eye(image.size).reshape(image.size, *image.shape)
    both = torch.from_numpy(np.concatenate([image + moves, image - moves]))
    texture = texture_of(network(both).numpy(), window)
    ahead, behind = np.split(texture, 2)
    return ((ahead - behind) / (2 * step)).reshape(image.shape)


@pytest.mark.parametrize("sides", [(9, 7), (6, 12)])
def test_a_float64_form_by_differences(sides):
    network, window = small_network(), Window(5, 3, 6)
    lr = np.random.default_rng(0).random((*sides, 3), dtype=np.float32)
    found = local_attribution(network, lr, window)
    double = small_network().double()
    planes = lr.transpose(2, 0, 1).astype(np.float64)
    products = [gradient_by_differences(double, x, window) * d for x, d in steps(planes)]
    expected = np.abs(np.mean(products, 0).sum(0))
    np.testing.assert_allclose(found, expected / expected.max(), atol=2e-5)


def test_the_path_ends_at_the_image_and_adds_up_to_what_the_blur_took():
    lr = np.random.default_rng(0).random((20, 24, 3), dtype=np.float32)
    images, derivatives = map(list, zip(*blur_path(lr), strict=True))
    np.testing.assert_allclose(images[-1], lr, atol=1e-7)
    axis = np.arange(-4, 5)
    kernel = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.20001**2))
    blurred = ndimage.correlate(lr, (kernel / kernel.sum())[..., None], mode="mirror")
    np.testing.assert_allclose(np.mean(derivatives, 0), lr - blurred, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_of_one_pixel_depends_on_its_window_and_the_neighbours_alone(channels):
    lr = np.random.default_rng(0).random((40, 70, channels), dtype=np.float32)
    found = local_attribution(nn.Identity(), lr, Window(50, 10, 8))
    assert found.shape == (40, 70)
    assert found.max() == 1
    outside = found.copy()
    outside[10:19, 50:59] = 0
    assert not outside.any()
    assert found[18, 58] == 0  # nobody's neighbour
    assert (found[18, 50:58] > 0).all()


def test_esc_in_evaluation_against_its_float64_form():
    arguments = {"dim": 8, "pdim": 4, "kernel_size": 5, "n_blocks": 1, "conv_blocks": 1}
    arguments |= {"window_size": 8, "num_heads": 2, "upscaling_factor": 3}
    network = fill_parameters(ESC(**arguments)).eval().requires_grad_(False)
    lr = np.random.default_rng(0).random((14, 17, 3), dtype=np.float32)
    window = Window(11, 6, 16)
    found = local_attribution(network, lr, window)
    network.double()
    total = np.zeros((3, 14, 17))
    for image, derivative in steps(lr.transpose(2, 0, 1).astype(np.float64)):
        x = torch.from_numpy(image[None]).requires_grad_()
        part = network(x)[0, :, 6:23, 11:28]
        down, right = part[:, :-1, :-1] - part[:, 1:, :-1], part[:, :-1, :-1] - part[:, :-1, 1:]
        torch.hypot(down, right).sum().backward()
        total += x.grad[0].numpy() * derivative
    expected = np.abs(total.sum(0))
    np.testing.assert_allclose(found, expected / expected.max(), atol=1e-4)


def test_a_flat_window_is_refused():
    lr = np.random.default_rng(0).random((40, 40, 3), dtype=np.float32)
    lr[:20] = 0.5
    with pytest.raises(UserError, match=r"depends on the image; found gradients of 0"):
        local_attribution(nn.Identity(), lr, Window(8, 4, 8))


def test_gradients_that_are_no_numbers_count_as_zero():
    """Every step has flat windows, in one of two images of a batch."""

    class Flattened(nn.Module):
        def forward(self, x):
            is_even = torch.arange(len(x)) % 2 == 0
            return torch.where(is_even[:, None, None, None], x, x * 0)

    lr = np.random.default_rng(0).random((12, 12, 3), dtype=np.float32)
    found = local_attribution(Flattened(), lr, Window(2, 2, 8))
    assert np.isfinite(found).all()
    assert found.max() == 1


def test_a_network_without_gradients_is_refused():
    lr = np.random.default_rng(0).random((12, 12, 3), dtype=np.float32)
    with pytest.raises(UserError, match="expected a network whose result has gradients"):
        local_attribution(lambda x: x.detach(), lr, Window(2, 2, 8))


def test_a_network_with_noise_gives_the_same_map_twice():
    class Noisy(nn.Module):
        def forward(self, x):
            return x * torch.rand_like(x)

    lr = np.random.default_rng(0).random((12, 12, 3), dtype=np.float32)
    state = torch.get_rng_state()
    maps = [local_attribution(Noisy(), lr, Window(2, 2, 8)) for _ in range(2)]
    np.testing.assert_array_equal(*maps)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.ones((5, 8)), 100),
        (np.eye(1, 10**4), 0.01),  # one of n: 100 / n
        (np.repeat([0, 1], 500), 50),
        (np.arange(1, 1001), 100 - 33.3),  # 1/3 but for 1/(3 n)
    ],
)
def test_known_diffusion_indices(values, expected):
    assert diffusion_index(values) == pytest.approx(expected, abs=0.11)


def test_the_diffusion_index_by_all_pairs():
    values = np.random.default_rng(0).random((6, 7)) ** 3
    gini = np.abs(values.ravel()[:, None] - values.ravel()).mean() / (2 * values.mean())
    assert diffusion_index(values) == pytest.approx((1 - gini) * 100, abs=1e-3)


@pytest.mark.parametrize("size", [3, 16])
def test_the_most_textured_window_by_loops(size):
    image = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    values = image.transpose(2, 0, 1)[None].astype(np.float64)
    sums = {
        (y, x): texture_of(values, Window(x, y, size))[0]
        for y in range(24 - size)
        for x in range(30 - size)
    }
    y, x = max(sums, key=sums.get)
    assert most_textured_window(image, size) == Window(x, y, size)


def test_of_equal_windows_the_first_is_taken():
    assert most_textured_window(np.zeros((20, 20, 1), np.uint8), 16) == Window(0, 0, 16)
