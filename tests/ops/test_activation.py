"""GELU against the error function of scipy."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from esc_arch.ops.activation import gelu

FORMATS = [torch.contiguous_format, torch.channels_last]


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
def test_keeps_memory_format(memory_format):
    x = torch.randn(2, 5, 6, 7).to(memory_format=memory_format)
    assert gelu(x).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradient(memory_format):
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64).to(memory_format=memory_format)
    assert torch.autograd.gradcheck(gelu, x.requires_grad_())


def test_does_not_write_to_its_input():
    x = torch.randn(2, 5, 6, 7)
    before = x.clone()
    gelu(x)
    assert torch.equal(x, before)
