"""Layers for channels_last maps against loops over pixels, numpy, scipy and PyTorch's own."""

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

from esc_arch.layers.channels_last import ChannelLayerNorm, GlobalMean, gelu, like_input

FORMATS = [torch.contiguous_format, torch.channels_last]

# ---- the norm ----------------------------------------------------------------------------------


def trained_norm(dim, dtype=torch.float64):
    norm = ChannelLayerNorm(dim)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.to(dtype)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("spread", [1, 1e-4])
def test_normalises_each_pixel(memory_format, spread):
    norm = trained_norm(5)
    x = spread * torch.randn(2, 5, 3, 4, dtype=torch.float64)
    expected = np.empty(x.shape)
    for b, i, j in np.ndindex(2, 3, 4):
        pixel = x[b, :, i, j].numpy()
        normal = (pixel - pixel.mean()) / np.sqrt(pixel.var() + 1e-6)
        expected[b, :, i, j] = normal * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    result = norm(x.to(memory_format=memory_format))
    np.testing.assert_allclose(result.detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (7, 6)])
def test_is_layer_norm_over_channels(memory_format, size):
    norm = trained_norm(16, torch.float32)
    reference = nn.LayerNorm(16, eps=1e-6)
    reference.load_state_dict(norm.state_dict())
    x = torch.randn(2, 16, *size)
    expected = reference(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, size)
    torch.testing.assert_close(norm(x.to(memory_format=memory_format)), expected)


def copies(function, x):
    """Names of the copying operators that PyTorch called, its own inner calls among them."""
    with torch.no_grad(), torch.profiler.profile() as profile:
        function(x)
    names = {event.name for event in profile.events()}
    assert "aten::native_layer_norm" in names
    return names & {"aten::copy_", "aten::clone", "aten::contiguous"}


def test_nothing_is_copied_on_a_channels_last_map():
    norm = trained_norm(16, torch.float32)
    x = torch.randn(2, 16, 7, 6)
    assert copies(norm, x)
    assert not copies(norm, x.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_normalised_map_is_channels_last(memory_format):
    x = torch.randn(2, 16, 7, 6).to(memory_format=memory_format)
    result = trained_norm(16, torch.float32)(x)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_gradients_of_the_norm():
    norm = trained_norm(3)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = tuple(norm.parameters())
    call = torch.func.functional_call

    def by_arguments(x, weight, bias):
        return call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(by_arguments, (x, *parameters))


def test_starts_as_the_identity_of_a_normal_pixel():
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    torch.testing.assert_close(ChannelLayerNorm(2).double()(x), x, atol=1e-6, rtol=0)


# ---- GELU --------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_is_the_exact_gelu(dtype, memory_format):
    x = torch.linspace(-8, 8, 2 * 5 * 6 * 7).reshape(2, 5, 6, 7).to(dtype)
    wide = x.double().numpy()
    expected = wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
    result = gelu(x.to(memory_format=memory_format))
    assert result.dtype == dtype
    # PyTorch's fast kernel is off by 6e-7 in float32; the tanh formula is by 5e-4.
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(result.double().numpy(), expected, rtol=2 * eps, atol=8 * eps)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gelu_keeps_memory_format(memory_format):
    x = torch.randn(2, 5, 6, 7).to(memory_format=memory_format)
    assert gelu(x).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradient_of_gelu(memory_format):
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64).to(memory_format=memory_format)
    assert torch.autograd.gradcheck(gelu, x.requires_grad_())


def test_gelu_does_not_write_to_its_input():
    x = torch.randn(2, 5, 6, 7)
    before = x.clone()
    gelu(x)
    assert torch.equal(x, before)


# ---- the mean ----------------------------------------------------------------------------------

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_do_not_overflow(dtype, memory_format):
    x = torch.full((1, 2, 1000, 1000), 100.0, dtype=dtype).to(memory_format=memory_format)
    result = GlobalMean()(x)
    assert result.dtype == dtype
    assert torch.equal(result, torch.full((1, 2, 1, 1), 100.0, dtype=dtype))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (7, 6), (200, 310)])
def test_is_the_mean_of_each_channel(size, dtype, memory_format):
    x = (torch.randn(2, 5, *size) + 3).to(dtype).to(memory_format=memory_format)
    result = GlobalMean()(x)
    assert result.shape == (2, 5, 1, 1)
    assert result.dtype == dtype
    expected = x.double().numpy().mean((2, 3), keepdims=True)
    rtol = 4 * torch.finfo(dtype).eps if dtype in DTYPES[:2] else torch.finfo(dtype).eps
    np.testing.assert_allclose(result.double().numpy(), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradient_of_the_mean(memory_format):
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64).to(memory_format=memory_format)
    assert torch.autograd.gradcheck(GlobalMean(), x.requires_grad_())


# ---- the format --------------------------------------------------------------------------------


@pytest.mark.parametrize("of_y", FORMATS)
@pytest.mark.parametrize("of_x", FORMATS)
def test_like_input_takes_the_format_of_the_input(of_x, of_y):
    x = torch.randn(2, 3, 4, 5).to(memory_format=of_x)
    y = torch.randn(2, 3, 8, 10).to(memory_format=of_y)
    result = like_input(y, x)
    assert result.is_contiguous(memory_format=of_x)
    assert torch.equal(result, y)
