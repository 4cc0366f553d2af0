"""The channel LayerNorm against loops over pixels, and against PyTorch's own."""

import numpy as np
import pytest
import torch
from torch import nn

from esc_arch.layers.norm import ChannelLayerNorm

FORMATS = [torch.contiguous_format, torch.channels_last]


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
def test_result_is_channels_last(memory_format):
    x = torch.randn(2, 16, 7, 6).to(memory_format=memory_format)
    result = trained_norm(16, torch.float32)(x)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_gradients():
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
