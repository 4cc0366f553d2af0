"""ConvAttn's convolution against loops over pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from esc_arch.ops.conv_attention import add_to_diagonal, conv_attention


def by_loops(x, large, dynamic):
    batch, p, height, width = x.shape
    result = np.zeros((batch, p, height, width))
    for kernels, is_shared in ((large, True), (dynamic, False)):
        side = kernels.shape[-1]
        padded = np.pad(x, ((0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)))
        for b in range(batch):
            for c in range(p):
                for i in range(height):
                    for j in range(width):
                        patch = padded[b, :, i : i + side, j : j + side]
                        result[b, c, i, j] += (
                            (patch * kernels[c]).sum()
                            if is_shared
                            else (patch[c] * kernels[b, c]).sum()
                        )
    return result


def random_inputs(batch, p, k, height, width):
    return (
        torch.randn(batch, p, height, width, dtype=torch.float64),
        torch.randn(p, p, k, k, dtype=torch.float64),
        torch.randn(batch, p, 3, 3, dtype=torch.float64),
    )


@pytest.mark.parametrize("height, width", [(1, 1), (7, 4)])
@pytest.mark.parametrize("k", [3, 5, 13])
@pytest.mark.parametrize("batch", [1, 3])
def test_is_the_sum_of_both_convolutions(batch, k, height, width):
    inputs = random_inputs(batch, 3, k, height, width)
    expected = by_loops(*(tensor.numpy() for tensor in inputs))
    np.testing.assert_allclose(conv_attention(*inputs).numpy(), expected, atol=1e-11)


@pytest.mark.parametrize("batch", [1, 2])
def test_gradient_of_all_inputs(batch):
    inputs = random_inputs(batch, 2, 5, 3, 4)
    assert torch.autograd.gradcheck(conv_attention, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("batch", [1, 3])
def test_memory_format_does_not_matter(batch):
    x, large, dynamic = random_inputs(batch, 4, 5, 6, 7)
    by_channel = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        conv_attention(by_channel, large, dynamic), conv_attention(x, large, dynamic)
    )


def test_an_image_has_the_same_result_alone_and_in_a_batch():
    x, large, dynamic = random_inputs(3, 4, 5, 6, 7)
    alone = [conv_attention(x[i : i + 1], large, dynamic[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), conv_attention(x, large, dynamic))


def test_does_not_write_to_its_inputs():
    inputs = random_inputs(1, 4, 5, 6, 7)
    before = [x.clone() for x in inputs]
    conv_attention(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@pytest.mark.parametrize("k", [3, 5, 13])
def test_kernel_with_the_diagonal_does_what_two_convolutions_do(k):
    x, large, dynamic = random_inputs(1, 4, k, 6, 7)
    expected = F.conv2d(x, large, padding=k // 2)
    expected += F.conv2d(x, dynamic[0][:, None], padding=1, groups=4)
    result = F.conv2d(x, add_to_diagonal(large, dynamic[0]), padding=k // 2)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_dtype(dtype):
    inputs = random_inputs(2, 4, 5, 6, 7)
    result = conv_attention(*(x.to(dtype) for x in inputs))
    assert result.dtype == dtype
    scale = torch.finfo(dtype).eps * 30
    torch.testing.assert_close(result.double(), conv_attention(*inputs), rtol=scale, atol=scale)
