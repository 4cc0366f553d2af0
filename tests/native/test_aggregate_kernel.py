"""The compiled last step of ConvAttn against PyTorch's convolution in float64."""

import pytest
import torch
import torch.nn.functional as F

from esc_arch import native

pytestmark = pytest.mark.usefixtures("lanes")


def random_inputs(batch, height, width, p, channels):
    torch.manual_seed(channels)
    weight, bias = torch.randn(channels, channels, 1, 1), torch.randn(channels)
    sizes = (p, channels, channels)
    return *(torch.randn(batch, height, width, size) for size in sizes), weight, bias


def in_float64(first, rest, residual, weight, bias):
    x = torch.cat([first, rest[..., first.shape[3] :]], dim=3).double().movedim(3, 1)
    return residual.double() + F.conv2d(x, weight.double(), bias.double()).movedim(1, 3)


def assert_near(result, expected):
    atol = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "batch, height, width, p, channels",
    [(1, 20, 70, 16, 64), (3, 7, 5, 16, 48), (2, 1, 300, 8, 16), (1, 3, 260, 24, 80)],
)
def test_is_the_convolution(batch, height, width, p, channels):
    first, rest, residual, weight, bias = random_inputs(batch, height, width, p, channels)
    expected = in_float64(first, rest, residual, weight, bias)
    native.aggregate(first, rest, weight, bias, residual)
    assert_near(residual, expected)


def test_works_on_parts_of_maps():
    """As with contiguous maps, and nothing is written around the part."""
    first, rest, residual, weight, bias = random_inputs(2, 9, 270, 16, 32)
    expected = in_float64(first, rest, residual, weight, bias)
    around = [torch.zeros(2, 12, 300, x.shape[3]) for x in (first, rest, residual)]
    parts = [x[:, 2:11, 5:275] for x in around]
    for part, x in zip(parts, (first, rest, residual), strict=True):
        part.copy_(x)
    native.aggregate(*parts[:2], weight, bias, parts[2])
    assert_near(parts[2], expected)
    parts[2].zero_()
    assert not around[2].any()
