"""The convolutional attentions against loops over pixels, and blocks of them against modules."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

from esc_arch import fast
from esc_arch.archs.esc_arch import (
    ConvAttnWrapper,
    ConvolutionalAttention,
    ESCBlock,
    ESCConfig,
    geometric_mean_kernel,
)
from esc_arch.archs.esc_fp_arch import FactorizedConvAttention
from esc_arch.fast import kernels
from esc_arch.fast.executor import is_symmetric
from tests.reference_cases import deviation, fill_parameters


def by_loops(x, large, dynamic):
    batch, p, height, width = x.shape
    result = np.zeros((batch, p, height, width))
    for kernels_of_map, is_shared in ((large, True), (dynamic, False)):
        side = kernels_of_map.shape[-1]
        padded = np.pad(x, ((0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)))
        for b in range(batch):
            for c in range(p):
                for i in range(height):
                    for j in range(width):
                        patch = padded[b, :, i : i + side, j : j + side]
                        result[b, c, i, j] += (
                            (patch * kernels_of_map[c]).sum()
                            if is_shared
                            else (patch[c] * kernels_of_map[b, c]).sum()
                        )
    return result


def by_definition(attention, x, large_kernel):
    """All of a convolutional attention in numpy: the mean, two layers, the convolutions."""
    branch = attention.proj if isinstance(large_kernel, tuple) else attention.dwc_proj
    first, second = (layer for layer in branch if isinstance(layer, nn.Conv2d))
    hidden = dense(x.numpy().mean((2, 3)), first)
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    dynamic = dense(hidden, second).reshape(len(x), -1, 3, 3)
    if not isinstance(large_kernel, tuple):
        return by_loops(x.numpy(), large_kernel.numpy(), dynamic)
    channel, spatial = (kernel.numpy() for kernel in large_kernel)
    mixed = np.einsum("oc,bchw->bohw", channel[:, :, 0, 0], x.numpy())
    p, k = spatial.shape[0], spatial.shape[-1]
    large = np.zeros((p, p, k, k))
    large[range(p), range(p)] = spatial[:, 0]
    return by_loops(mixed, large, dynamic)


def dense(x, layer):
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    return x @ weight[:, :, 0, 0].T + bias


def random_inputs(kind, batch, p, k, height, width):
    """A convolutional attention, a map and the large kernel."""
    attention = kind(p)
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(batch, p, height, width, dtype=torch.float64)
    if kind is FactorizedConvAttention:
        large = (
            torch.randn(p, p, 1, 1, dtype=torch.float64),
            torch.randn(p, 1, k, k, dtype=torch.float64),
        )
    else:
        large = torch.randn(p, p, k, k, dtype=torch.float64)
    return attention.double(), x, large


KINDS = pytest.mark.parametrize("kind", [ConvolutionalAttention, FactorizedConvAttention])


def parts(large):
    return large if isinstance(large, tuple) else (large,)


@KINDS
@pytest.mark.parametrize("height, width", [(1, 1), (7, 4)])
@pytest.mark.parametrize("k", [3, 5, 13])
@pytest.mark.parametrize("batch", [1, 3])
def test_is_the_sum_of_both_convolutions(kind, batch, k, height, width):
    p = 3 if kind is ConvolutionalAttention else 4
    attention, x, large = random_inputs(kind, batch, p, k, height, width)
    expected = by_definition(attention, x, large)
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            result = attention(x, large).detach().numpy()
        np.testing.assert_allclose(result, expected, atol=1e-11)


@KINDS
@pytest.mark.parametrize("batch", [1, 2])
def test_gradient_of_all_inputs(kind, batch):
    p = 2 if kind is ConvolutionalAttention else 4
    attention, x, large = random_inputs(kind, batch, p, 5, 3, 4)
    names, parameters = zip(*attention.named_parameters(), strict=True)
    count = len(parts(large))

    def by_arguments(x, *values):
        kernel = values[:count] if count == 2 else values[0]
        given = dict(zip(names, values[count:], strict=True))
        return torch.func.functional_call(attention, given, (x, kernel))

    leaves = [t.detach().requires_grad_() for t in (x, *parts(large), *parameters)]
    assert torch.autograd.gradcheck(by_arguments, leaves)


@KINDS
@pytest.mark.parametrize("batch", [1, 3])
def test_memory_format_does_not_matter(kind, batch):
    attention, x, large = random_inputs(kind, batch, 4, 5, 6, 7)
    by_channel = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(attention(by_channel, large), attention(x, large))


@KINDS
def test_an_image_has_the_same_result_alone_and_in_a_batch(kind):
    attention, x, large = random_inputs(kind, 3, 4, 5, 6, 7)
    alone = [attention(x[i : i + 1], large) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), attention(x, large))


@KINDS
def test_does_not_write_to_its_inputs(kind):
    attention, x, large = random_inputs(kind, 1, 4, 5, 6, 7)
    tensors = [x, *parts(large), *attention.parameters()]
    before = [tensor.clone() for tensor in tensors]
    with torch.no_grad():
        attention(x, large)
    assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_dtype(kind, dtype):
    attention, x, large = random_inputs(kind, 2, 4, 5, 6, 7)
    # What half precision loses of the inputs is not the layer's error.
    attention.to(dtype)
    x, large = x.to(dtype), tuple(kernel.to(dtype) for kernel in parts(large))
    result = attention(x, large if len(large) == 2 else large[0])
    assert result.dtype == dtype
    large = tuple(kernel.double() for kernel in large)
    expected = attention.double()(x.double(), large if len(large) == 2 else large[0])
    scale = torch.finfo(dtype).eps * 30
    torch.testing.assert_close(result.double(), expected, rtol=scale, atol=scale)


@KINDS
@pytest.mark.parametrize("p", [4, 8])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_other_channels_pass_by(kind, p, memory_format):
    attention, x, large = random_inputs(kind, 2, p, 5, 9, 7)
    wrapper = ConvAttnWrapper(10, attention).double()
    rest = torch.randn(2, 10 - p, 9, 7, dtype=torch.float64)
    whole = torch.cat([x, rest], dim=1).to(memory_format=memory_format)
    before = whole.clone()
    convolved = np.concatenate([by_definition(attention, x, large), rest.numpy()], axis=1)
    weight, bias = (p.detach().numpy() for p in wrapper.aggr.parameters())
    expected = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], convolved) + bias[:, None, None]
    np.testing.assert_allclose(wrapper(whole, large).detach().numpy(), expected, atol=1e-11)
    assert torch.equal(whole, before)


# ---- in a block --------------------------------------------------------------------------------


def test_symmetry_is_seen_to_the_bit():
    kernel = geometric_mean_kernel(torch.randn(2, 2, 5, 5))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        assert is_symmetric(kernel.contiguous(memory_format=memory_format))
    for place in np.ndindex(5, 5):
        if place == (2, 2):
            continue
        changed = kernel.clone()
        value = changed[(1, 0, *place)]
        value.copy_(torch.nextafter(value, torch.tensor(torch.inf)))
        assert not is_symmetric(changed)
    turned = kernel.clone()
    turned[0, 1] = torch.arange(25).reshape(5, 5)
    assert not is_symmetric(turned)
    rows_only = torch.randn(1, 1, 5, 1).expand(1, 1, 5, 5)
    assert not is_symmetric((rows_only + rows_only.flip(-2)).contiguous())
    diagonal = torch.eye(5)[None, None]
    assert not is_symmetric(diagonal)


@pytest.mark.skipif(not kernels.available(), reason="the kernels were not compiled")
@pytest.mark.parametrize("symmetric", [True, False])
def test_symmetric_kernels_go_by_the_convolution_for_them(monkeypatch, symmetric):
    calls, symmetric_conv = [], kernels.symmetric_conv

    def counted(*given):
        calls.append(given)
        return symmetric_conv(*given)

    monkeypatch.setattr(kernels, "symmetric_conv", counted)
    kernel = torch.randn(16, 16, 5, 5)
    kernel = geometric_mean_kernel(kernel) if symmetric else kernel
    with torch.no_grad():
        fast.run_block(make_block(16, 16, 5), torch.randn(1, 16, 6, 7), kernel)
    assert bool(calls) == symmetric


def make_block(dim, pdim, k, use_ln=False, kind=ConvolutionalAttention):
    heads = next(heads for heads in (4, 3, 2, 1) if dim % heads == 0)
    config = ESCConfig(dim, pdim, k, 1, 2, 8, heads, 2, exp_ratio=1.25)
    return fill_parameters(ESCBlock(config, use_ln, kind)).eval()


def check_block(block, x, large_kernel):
    """The executor against the modules, in float64."""
    wide = tuple(kernel.double() for kernel in parts(large_kernel))
    expected = copy.deepcopy(block).double()(x.double(), wide if len(wide) == 2 else wide[0])
    assert expected.requires_grad  # by the modules
    before = x.clone()
    with torch.no_grad():
        assert fast.takes(block, x, large_kernel)
        result = fast.run_block(block, x, large_kernel)
        assert torch.equal(block(x, large_kernel), result)
    assert result.dtype == x.dtype
    assert deviation(result, expected.detach()) < 1e-5
    assert torch.equal(x, before)


@pytest.mark.parametrize("use_ln", [False, True])
@pytest.mark.parametrize("k", [3, 5, 13])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_kernel_without_symmetry(monkeypatch, k, batch, use_ln):
    if kernels.available():
        monkeypatch.setattr(
            kernels, "symmetric_conv", lambda *given: pytest.fail("is for symmetric kernels")
        )
    kernel = torch.randn(16, 16, k, k) / k / 4
    assert not is_symmetric(kernel)
    check_block(make_block(32, 16, k, use_ln), torch.randn(batch, 32, 29, 37), kernel)


def test_a_kernel_that_is_symmetric_but_for_one_bit():
    """Which is enough to take the other way, and gives the same."""
    kernel = geometric_mean_kernel(torch.randn(16, 16, 13, 13) / 13 / 4)
    kernel[3, 5, 0, 1] += 1e-7
    assert not is_symmetric(kernel)
    check_block(make_block(32, 16, 13), torch.randn(1, 32, 29, 37), kernel)


@torch.no_grad()
@pytest.mark.parametrize("k", [3, 5, 13])
def test_one_convolution_by_both_kernels(k):
    """The executor adds the dynamic kernel to the large one.  In float64."""
    block, x = make_block(16, 4, k).double(), torch.randn(2, 16, 9, 20, dtype=torch.float64)
    large = torch.randn(4, 4, k, k, dtype=torch.float64)
    with torch.enable_grad():
        expected = block(x, large).detach()
    torch.testing.assert_close(fast.run_block(block, x, large), expected)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "dim, pdim", [(16, 16), (32, 16), (24, 16), (20, 5), (32, 12), (16, 2), (48, 32), (21, 17)]
)
@pytest.mark.parametrize("batch, height, width", [(1, 29, 37), (2, 11, 13), (2, 1, 1), (1, 5, 70)])
def test_blocks_of_any_widths(dim, pdim, batch, height, width, symmetric):
    kernel = torch.randn(pdim, pdim, 5, 5) / 20
    kernel = geometric_mean_kernel(kernel) if symmetric else kernel
    assert is_symmetric(kernel) == symmetric
    check_block(make_block(dim, pdim, 5), torch.randn(batch, dim, height, width), kernel)


@pytest.mark.parametrize("dim, pdim", [(16, 16), (32, 16), (20, 5), (24, 16)])
@pytest.mark.parametrize("batch, height, width", [(1, 29, 37), (2, 11, 13), (2, 1, 1)])
@pytest.mark.parametrize("k", [3, 13])
def test_blocks_with_factorized_kernels(dim, pdim, batch, height, width, k):
    large = (torch.randn(pdim, pdim, 1, 1) / pdim**0.5, torch.randn(pdim, 1, k, k) / k)
    block = make_block(dim, pdim, k, True, FactorizedConvAttention)
    check_block(block, torch.randn(batch, dim, height, width), large)
