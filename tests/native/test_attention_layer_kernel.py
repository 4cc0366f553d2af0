"""The compiled self-attention with its norm and residual against loops in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esc_arch import native
from esc_arch.layers import window_attention
from esc_arch.layers.norm import ChannelLayerNorm
from esc_arch.layers.window_attention import WindowAttention, attend
from tests import brute_force

pytestmark = pytest.mark.usefixtures("lanes")


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr(window_attention, "WINDOWS_PER_CORE", 0)


def make_layers(dim, heads, window):
    torch.manual_seed(dim * window)
    attention, norm = WindowAttention(dim, window, heads), ChannelLayerNorm(dim)
    for parameter in (attention.relative_position_bias, *norm.parameters()):
        nn.init.normal_(parameter)
    return attention, norm


@torch.no_grad()
def in_double(attention, norm, x):
    attention, norm, x = (copy.deepcopy(item).double() for item in (attention, norm, x))
    state = {key: value.numpy() for key, value in attention.state_dict().items()}
    attended = brute_force.window_attention_layer(norm(x).numpy(), state, attention.window_size)
    return x.numpy() + attended


def is_the_kernel(attention, x):
    return native.usable(x) and attention.goes_by_windows(x)


@pytest.mark.parametrize(
    "batch, dim, heads, window, height, width",
    [
        (1, 64, 4, 8, 17, 30),
        (2, 48, 3, 5, 11, 4),
        (2, 16, 1, 7, 1, 1),
        (1, 16, 2, 18, 20, 37),
        (3, 32, 4, 3, 2, 9),
        (1, 16, 16, 1, 3, 2),
        (1, 192, 12, 4, 9, 6),
    ],
)
@torch.inference_mode()
def test_is_the_layers(batch, dim, heads, window, height, width):
    attention, norm = make_layers(dim, heads, window)
    x = torch.randn(batch, dim, height, width)
    before = x.clone()
    assert is_the_kernel(attention, x)
    result = attend(attention, norm, x).numpy()
    expected = in_double(attention, norm, x.clone())
    np.testing.assert_allclose(result, expected, atol=1e-5 * (1 + np.abs(expected).max()))
    assert torch.equal(x, before)


@torch.inference_mode()
def test_of_the_networks_size():
    """32 x 32 windows, where loops would take minutes: against the layers in float64."""
    attention, norm = make_layers(64, 4, 32)
    x = torch.randn(1, 64, 40, 70)
    result = attend(attention, norm, x)
    double = x.double()
    expected = double + copy.deepcopy(attention).double()(copy.deepcopy(norm).double()(double))
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("threads", [1, 3, 16])
@torch.inference_mode()
def test_any_number_of_threads(threads, with_threads):
    attention, norm = make_layers(16, 2, 4)
    x = torch.randn(1, 16, 21, 30)
    expected = attend(attention, norm, x)
    with with_threads(threads):
        assert torch.equal(attend(attention, norm, x), expected)


@torch.inference_mode()
def test_reuses_memory_and_takes_any_format():
    attention, norm = make_layers(16, 2, 4)
    x = torch.randn(2, 16, 5, 9)
    expected = attend(attention, norm, x)
    memory = torch.full((2, 16, 5, 9), float("nan")).contiguous(memory_format=torch.channels_last)
    by_channel = x.contiguous(memory_format=torch.channels_last)
    result = attend(attention, norm, by_channel, reuse=memory)
    assert result.data_ptr() == memory.data_ptr()
    assert torch.equal(result, expected)
    # Memory of another layout cannot take the result.
    other = torch.full((2, 16, 5, 9), float("nan"))
    assert torch.equal(attend(attention, norm, x, reuse=other), expected)
    assert other.isnan().all()


@torch.inference_mode()
def test_writes_a_part_of_a_map():
    attention, norm = make_layers(16, 2, 4)
    x = torch.randn(2, 16, 6, 9)
    memory = torch.zeros(2, 16, 20, 20).contiguous(memory_format=torch.channels_last)
    place = memory[:, :, 3:9, 7:16]
    result = attend(attention, norm, x, reuse=place)
    assert result.data_ptr() == place.data_ptr()
    assert torch.equal(result, attend(attention, norm, x))
    place.zero_()
    assert not memory.any()


@torch.inference_mode()
def test_a_nan_shows_in_its_window_only():
    attention, norm = make_layers(16, 2, 4)
    x = torch.randn(1, 16, 12, 12)
    x[0, 3, 5, 9] = float("nan")
    wrong = attend(attention, norm, x).isnan().any(1)[0]
    expected = torch.zeros(12, 12, dtype=bool)
    expected[4:8, 8:12] = True
    assert torch.equal(wrong, expected)


@torch.inference_mode()
def test_few_windows_and_odd_widths_go_by_the_layers(monkeypatch):
    attention, norm = make_layers(16, 2, 4)
    x = torch.randn(1, 16, 8, 9)
    by_windows = attend(attention, norm, x)
    monkeypatch.setattr(window_attention, "WINDOWS_PER_CORE", 1000)
    assert not is_the_kernel(attention, x)
    torch.testing.assert_close(attend(attention, norm, x), by_windows, rtol=0, atol=2e-5)
    monkeypatch.setattr(window_attention, "WINDOWS_PER_CORE", 0)
    attention, norm = make_layers(6, 2, 4)
    x = torch.randn(1, 6, 8, 9)
    assert not is_the_kernel(attention, x)
    np.testing.assert_allclose(
        attend(attention, norm, x).numpy(), in_double(attention, norm, x.clone()), atol=1e-4
    )


@torch.inference_mode()
def test_its_multiply_adds_are_counted():
    attention, norm = make_layers(16, 2, 4)
    with FlopCounterMode(display=False) as counter:
        attend(attention, norm, torch.randn(1, 16, 6, 9))
    windows = 2 * 3
    attended = windows * 16 * 16 * 16 * 2
    assert counter.get_total_flops() == 2 * (6 * 9 * 16 * 16 * 4 + attended)
