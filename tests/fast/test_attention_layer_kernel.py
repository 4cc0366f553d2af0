"""The compiled self-attention with its norm and residual against loops in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esc_arch.fast import kernels
from esc_arch.ops import attention
from tests import brute_force

pytestmark = pytest.mark.usefixtures("lanes")


def make_layers(dim, heads, window):
    torch.manual_seed(dim * window)
    norm = nn.LayerNorm(dim, eps=1e-6)
    layers = {
        "norm": norm,
        "to_qkv": nn.Conv2d(dim, 3 * dim, 1),
        "table": torch.empty(heads, (2 * window - 1) ** 2),
        "to_out": nn.Conv2d(dim, dim, 1),
    }
    for parameter in (layers["table"], *norm.parameters()):
        nn.init.normal_(parameter)
    return layers


def by_kernel(layers, window, x, out=None):
    if out is None:
        out = torch.full(x.shape, float("nan")).contiguous(memory_format=torch.channels_last)
    bias = kernels.prepare_bias(layers["table"], window)
    norm, to_qkv, to_out = (layers[name] for name in ("norm", "to_qkv", "to_out"))
    kernels.attention_layer(x, norm, to_qkv, bias, window, to_out, out)
    return out


def normalised(norm, x):
    parameters = norm.weight.double(), norm.bias.double(), norm.eps
    x = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], *parameters)
    return x.permute(0, 3, 1, 2)


def by_loops(layers, window, x):
    """In numpy, in float64."""
    x = x.double()
    state = {"relative_position_bias": layers["table"].double().numpy()}
    for name in ("to_qkv", "to_out"):
        for key, value in layers[name].state_dict().items():
            state[f"{name}.{key}"] = value.double().numpy()
    attended = brute_force.window_attention_layer(
        normalised(layers["norm"], x).numpy(), state, window
    )
    return x.numpy() + attended


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
    layers = make_layers(dim, heads, window)
    x = torch.randn(batch, dim, height, width)
    before = x.clone()
    result = by_kernel(layers, window, x).numpy()
    expected = by_loops(layers, window, x)
    np.testing.assert_allclose(result, expected, atol=1e-5 * (1 + np.abs(expected).max()))
    assert torch.equal(x, before)


@torch.inference_mode()
def test_of_the_networks_size():
    """32 x 32 windows, where loops would take minutes: against PyTorch in float64."""
    layers = make_layers(64, 4, 32)
    x = torch.randn(1, 64, 40, 70)
    result = by_kernel(layers, 32, x)
    qkv, out = (
        (layers[name].weight.double(), layers[name].bias.double()) for name in ("to_qkv", "to_out")
    )
    double = x.double()
    projected = F.conv2d(normalised(layers["norm"], double), *qkv)
    attended = attention.window_attention(projected, layers["table"].double(), 32, "naive")
    expected = double + F.conv2d(attended, *out)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("threads", [1, 3, 16])
@torch.inference_mode()
def test_any_number_of_threads(threads, with_threads):
    layers = make_layers(16, 2, 4)
    x = torch.randn(1, 16, 21, 30)
    expected = by_kernel(layers, 4, x)
    with with_threads(threads):
        assert torch.equal(by_kernel(layers, 4, x), expected)


@torch.inference_mode()
def test_takes_any_format():
    layers = make_layers(16, 2, 4)
    x = torch.randn(2, 16, 5, 9)
    expected = by_kernel(layers, 4, x)
    by_channel = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(by_kernel(layers, 4, by_channel), expected)


@torch.inference_mode()
def test_writes_a_part_of_a_map():
    layers = make_layers(16, 2, 4)
    x = torch.randn(2, 16, 6, 9)
    memory = torch.zeros(2, 16, 20, 20).contiguous(memory_format=torch.channels_last)
    place = memory[:, :, 3:9, 7:16]
    assert kernels.takes_result(place)
    by_kernel(layers, 4, x, place)
    assert torch.equal(place, by_kernel(layers, 4, x))
    place.zero_()
    assert not memory.any()


@torch.inference_mode()
def test_a_nan_shows_in_its_window_only():
    layers = make_layers(16, 2, 4)
    x = torch.randn(1, 16, 12, 12)
    x[0, 3, 5, 9] = float("nan")
    wrong = by_kernel(layers, 4, x).isnan().any(1)[0]
    expected = torch.zeros(12, 12, dtype=bool)
    expected[4:8, 8:12] = True
    assert torch.equal(wrong, expected)
