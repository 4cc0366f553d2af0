"""The compiled last step of ConvAttn against PyTorch's convolution in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esc_arch.fast import kernels

pytestmark = pytest.mark.usefixtures("lanes")


def random_inputs(batch, height, width, p, channels):
    torch.manual_seed(channels)
    layer = nn.Conv2d(channels, channels, 1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    sizes = (p, channels, channels)
    maps = (torch.randn(batch, height, width, size).permute(0, 3, 1, 2) for size in sizes)
    return *maps, layer


def in_float64(first, rest, residual, layer):
    x = torch.cat([first, rest[:, first.shape[1] :]], dim=1).double()
    return residual.double() + F.conv2d(x, layer.weight.double(), layer.bias.double())


def assert_near(result, expected):
    atol = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "batch, height, width, p, channels",
    [(1, 20, 70, 16, 64), (3, 7, 5, 16, 48), (2, 1, 300, 8, 16), (1, 3, 260, 24, 80)],
)
@torch.inference_mode()
def test_is_the_convolution(batch, height, width, p, channels):
    first, rest, residual, layer = random_inputs(batch, height, width, p, channels)
    expected = in_float64(first, rest, residual, layer)
    kernels.aggregate(first, rest, layer, residual)
    assert_near(residual, expected)


@torch.inference_mode()
def test_works_on_parts_of_maps():
    """As with contiguous maps, and nothing is written around the part."""
    first, rest, residual, layer = random_inputs(2, 9, 270, 16, 32)
    expected = in_float64(first, rest, residual, layer)
    around = [
        torch.zeros(2, 12, 300, x.shape[1]).permute(0, 3, 1, 2) for x in (first, rest, residual)
    ]
    parts = [x[:, :, 2:11, 5:275] for x in around]
    for part, x in zip(parts, (first, rest, residual), strict=True):
        part.copy_(x)
    kernels.aggregate(*parts[:2], layer, parts[2])
    assert_near(parts[2], expected)
    parts[2].zero_()
    assert not around[2].any()


@torch.inference_mode()
def test_takes_any_format():
    """Maps by channel, and the first channels of a wider map."""
    first, rest, residual, layer = random_inputs(2, 5, 70, 16, 32)
    results = [residual.clone() for _ in range(3)]
    kernels.aggregate(first, rest, layer, results[0])
    kernels.aggregate(first.contiguous(), rest.contiguous(), layer, results[1])
    wide = torch.cat([first, rest], dim=1).contiguous(memory_format=torch.channels_last)
    kernels.aggregate(wide[:, :16], wide[:, 16:], layer, results[2])
    assert torch.equal(results[1], results[0]) and torch.equal(results[2], results[0])
