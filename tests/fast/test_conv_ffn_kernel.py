"""The compiled feed-forward network against PyTorch's operations in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esc_arch.fast import kernels
from esc_arch.fast.kernels import NO_MARGINS, Margins

pytestmark = pytest.mark.usefixtures("lanes")


def make_layers(dim, ratio, with_norm):
    """The norm, or None, and the three convolutions."""
    torch.manual_seed(dim)
    norm = nn.LayerNorm(dim, eps=1e-6) if with_norm else None
    for parameter in norm.parameters() if with_norm else ():
        nn.init.normal_(parameter)
    hidden = int(dim * ratio)
    depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
    return norm, nn.Conv2d(dim, hidden, 1), depthwise, nn.Conv2d(hidden, dim, 1)


def convolve(x, layer, **settings):
    return F.conv2d(x, layer.weight.double(), layer.bias.double(), **settings)


def in_float64(layers, x):
    norm, widen, depthwise, narrow = layers
    x = x.double()
    if norm is not None:
        parameters = norm.weight.double(), norm.bias.double(), norm.eps
        x = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], *parameters).permute(0, 3, 1, 2)
    x = F.gelu(convolve(x, widen))
    x = F.gelu(convolve(x, depthwise, padding=1, groups=x.shape[1])) + x
    return convolve(x, narrow)


def by_kernel(layers, x):
    out = torch.full(x.shape, float("nan")).contiguous(memory_format=torch.channels_last)
    kernels.conv_ffn(x, *layers, out, NO_MARGINS)
    return out


def assert_near(result, expected):
    torch.testing.assert_close(
        result.double(), expected, rtol=0, atol=1e-5 * (1 + expected.abs().max().item())
    )


@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize(
    "batch, dim, ratio, height, width",
    [
        (1, 64, 1.25, 70, 130),
        (2, 48, 1.25, 33, 65),
        (1, 64, 2, 20, 7),
        (1, 192, 1.25, 9, 70),
        (1, 10, 1.3, 1, 1),
        (3, 17, 2, 2, 64),
        (1, 1, 1, 3, 3),
    ],
)
@torch.inference_mode()
def test_is_the_layers(batch, dim, ratio, height, width, with_norm):
    layers = make_layers(dim, ratio, with_norm)
    x = torch.randn(batch, dim, height, width).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    assert_near(by_kernel(layers, x), in_float64(layers, x))
    assert torch.equal(x, before)


@torch.inference_mode()
def test_may_change_the_number_of_channels():
    norm, widen, depthwise, _ = make_layers(16, 2, True)
    layers = norm, widen, depthwise, nn.Conv2d(32, 5, 1)
    x = torch.randn(2, 16, 7, 9)
    out = torch.empty(2, 5, 7, 9, memory_format=torch.channels_last)
    kernels.conv_ffn(x, *layers, out)
    assert_near(out, in_float64(layers, x))


@torch.inference_mode()
def test_any_number_of_threads(check_threads):
    layers = make_layers(16, 2, True)
    x = torch.randn(1, 16, 21, 100)
    check_threads(lambda: [by_kernel(layers, x)])


@torch.inference_mode()
def test_takes_any_format():
    layers = make_layers(8, 2, True)
    x = torch.randn(2, 8, 5, 9)
    by_channel = by_kernel(layers, x)
    assert torch.equal(
        by_kernel(layers, x.contiguous(memory_format=torch.channels_last)), by_channel
    )


@pytest.mark.parametrize("margins", [(1, 1, 1, 1), (0, 3, 2, 0), (2, 0, 0, 5)])
@pytest.mark.parametrize("dim", [16, 10])
@torch.inference_mode()
def test_looks_at_the_margins_and_writes_a_part(margins, dim):
    """The part of a map whose input ends with the margins, into a part of another map."""
    top, bottom, left, right = margins
    layers = make_layers(dim, 2, True)
    image = torch.full((2, dim, 42, 90), float("nan")).contiguous(memory_format=torch.channels_last)
    x = image[:, :, 1:-1, 2:-8]
    x.copy_(torch.randn(x.shape))
    expected = in_float64(layers, x)[:, :, top : 40 - bottom, left : 80 - right]
    memory = torch.zeros(2, dim, 50, 100).contiguous(memory_format=torch.channels_last)
    place = memory[:, :, 3 : 3 + expected.shape[2], 7 : 7 + expected.shape[3]]
    assert kernels.takes_result(place)
    kernels.conv_ffn(x, *layers, place, Margins(*margins))
    assert_near(place, expected)
    place.zero_()
    assert not memory.any()


@torch.inference_mode()
def test_a_nan_shows_in_its_neighbours_only():
    layers = make_layers(8, 2, False)
    x = torch.randn(1, 8, 9, 70)
    x[0, 0, 4, 64] = float("nan")
    wrong = by_kernel(layers, x).isnan().any(1)[0]
    expected = torch.zeros(9, 70, dtype=bool)
    expected[3:6, 63:66] = True
    assert torch.equal(wrong, expected)
