"""The compiled feed-forward network against PyTorch's layers in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esc_arch import native
from esc_arch.layers.conv_ffn import ConvFFN, feed_forward
from esc_arch.layers.norm import ChannelLayerNorm
from esc_arch.ops.margins import Margins

pytestmark = pytest.mark.usefixtures("lanes")


def make_layers(dim, ratio, with_norm):
    torch.manual_seed(dim)
    norm = ChannelLayerNorm(dim) if with_norm else nn.Identity()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return ConvFFN(dim, ratio), norm


def in_double(ffn, norm, x):
    with torch.enable_grad():  # the kernel leaves that to PyTorch
        return copy.deepcopy(ffn).double()(copy.deepcopy(norm).double()(x.double())).detach()


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
    ffn, norm = make_layers(dim, ratio, with_norm)
    x = torch.randn(batch, dim, height, width).contiguous(memory_format=torch.channels_last)
    assert native.usable(x)
    result = feed_forward(ffn, norm, x)
    assert_near(result, in_double(ffn, norm, x))


@torch.inference_mode()
def test_any_number_of_threads(check_threads):
    ffn, norm = make_layers(16, 2, True)
    x = torch.randn(1, 16, 21, 100)
    check_threads(lambda: [feed_forward(ffn, norm, x)])


@torch.inference_mode()
def test_reuses_memory_and_takes_any_format():
    ffn, norm = make_layers(8, 2, True)
    x = torch.randn(2, 8, 5, 9)
    expected = feed_forward(ffn, norm, x)
    memory = torch.full((2, 8, 5, 9), float("nan")).contiguous(memory_format=torch.channels_last)
    by_channel = x.contiguous(memory_format=torch.channels_last)
    result = feed_forward(ffn, norm, by_channel, reuse=memory)
    assert result.data_ptr() == memory.data_ptr()
    assert torch.equal(result, expected)


@pytest.mark.parametrize("margins", [(1, 1, 1, 1), (0, 3, 2, 0), (2, 0, 0, 5)])
@pytest.mark.parametrize("dim", [16, 10])
@torch.inference_mode()
def test_looks_at_the_margins_and_writes_a_part(margins, dim):
    """The part of a map whose input ends with the margins, into a part of another map."""
    margins = Margins(*margins)
    ffn, norm = make_layers(dim, 2, True)
    image = torch.full((2, dim, 42, 90), float("nan")).contiguous(memory_format=torch.channels_last)
    x = image[:, :, 1:-1, 2:-8]
    x.copy_(torch.randn(x.shape))
    expected = margins.inner(in_double(ffn, norm, x))
    memory = torch.zeros(2, dim, 50, 100).contiguous(memory_format=torch.channels_last)
    place = memory[:, :, 3 : 3 + expected.shape[2], 7 : 7 + expected.shape[3]]
    result = feed_forward(ffn, norm, x, reuse=place, margins=margins)
    assert result.data_ptr() == place.data_ptr()
    assert_near(result, expected)
    place.zero_()
    assert not memory.any()


@torch.inference_mode()
def test_a_nan_shows_in_its_neighbours_only():
    ffn, norm = make_layers(8, 2, False)
    x = torch.randn(1, 8, 9, 70)
    x[0, 0, 4, 64] = float("nan")
    wrong = feed_forward(ffn, norm, x).isnan().any(1)[0]
    expected = torch.zeros(9, 70, dtype=bool)
    expected[3:6, 63:66] = True
    assert torch.equal(wrong, expected)


@pytest.mark.parametrize("kernel_size", [1, 5])
@torch.inference_mode()
def test_other_depthwise_kernels_go_by_pytorch(kernel_size):
    ffn = ConvFFN(6, 2, kernel_size)
    x = torch.randn(1, 6, 7, 8)
    assert_near(feed_forward(ffn, nn.Identity(), x), in_double(ffn, nn.Identity(), x))


@torch.inference_mode()
def test_its_multiply_adds_are_counted():
    ffn, norm = make_layers(6, 2, True)
    with FlopCounterMode(display=False) as counter:
        feed_forward(ffn, norm, torch.randn(1, 6, 4, 5))
    assert counter.get_total_flops() == 2 * 4 * 5 * (6 * 12 + 9 * 12 + 12 * 6)
