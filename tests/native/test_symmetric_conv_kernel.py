"""The compiled convolution by a symmetric kernel against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from esc_arch import native
from esc_arch.ops.conv_attention import conv_attention
from esc_arch.ops.geometric import geometric_mean_kernel, is_symmetric
from esc_arch.ops.margins import NO_MARGINS, Margins

pytestmark = pytest.mark.usefixtures("lanes")


def random_inputs(batch, p, height, width, k):
    numbers = torch.Generator().manual_seed(p + k)
    x = torch.randn(batch, height, width, p + 5, generator=numbers)[..., :p]
    kernel = geometric_mean_kernel(torch.randn(p, p, k, k, generator=numbers) / k)
    return x, kernel, torch.randn(batch, p, 3, 3, generator=numbers)


def in_float64(x, kernel, dynamic_kernel):
    x, kernel, dynamic_kernel = x.permute(0, 3, 1, 2).double(), kernel.double(), dynamic_kernel
    y = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
    for image, kernels in enumerate(dynamic_kernel.double()):
        y[image] += F.conv2d(x[image], kernels.unsqueeze(1), padding=1, groups=len(kernels))
    return y.permute(0, 2, 3, 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "batch, p, height, width, k",
    [
        (1, 16, 30, 70, 13),
        (2, 16, 5, 200, 13),
        (1, 48, 20, 33, 13),
        (2, 32, 1, 1, 3),
        (1, 16, 17, 64, 5),
        (1, 16, 40, 65, 17),
    ],
)
def test_is_the_convolution(batch, p, height, width, k, memory_format):
    x, kernel, dynamic_kernel = random_inputs(batch, p, height, width, k)
    kernel = kernel.contiguous(memory_format=memory_format)
    result = native.symmetric_conv(x, kernel, dynamic_kernel, NO_MARGINS).double()
    expected = in_float64(x, kernel, dynamic_kernel)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5 * expected.std().item())


@pytest.mark.parametrize("margins", [(6, 6, 6, 6), (0, 9, 2, 0), (3, 0, 0, 30), (0, 1, 20, 4)])
def test_looks_at_the_margins_and_not_beyond(margins):
    """The part of a convolution whose input ends with the margins."""
    margins = Margins(*margins)
    x, kernel, dynamic_kernel = random_inputs(2, 16, 28, 120, 13)
    image = torch.full((2, 30, 130, 20), float("nan"))
    image[:, 1:-1, 4:-6, :16] = x
    part = image[:, 1:-1, 4:-6, :16]
    result = native.symmetric_conv(part, kernel, dynamic_kernel, margins).double()
    expected = in_float64(x, kernel, dynamic_kernel).movedim(3, 1)
    expected = margins.inner(expected).movedim(1, 3)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5 * expected.std().item())


def test_any_number_of_threads(check_threads):
    inputs = random_inputs(1, 16, 21, 100, 13)
    check_threads(lambda: [native.symmetric_conv(*inputs, NO_MARGINS)])


@torch.inference_mode()
def test_a_kernel_without_symmetry_goes_by_pytorch():
    x, kernel, dynamic_kernel = random_inputs(1, 16, 9, 10, 5)
    kernel[3, 2, 0, 1] += 1
    assert not is_symmetric(kernel)
    result = conv_attention(x.permute(0, 3, 1, 2), kernel, dynamic_kernel).permute(0, 2, 3, 1)
    expected = in_float64(x, kernel, dynamic_kernel)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("place", [(0, 0), (0, 3), (3, 0), (2, 2), (1, 4), (6, 6)])
def test_symmetry_is_seen_to_the_bit(place):
    kernel = geometric_mean_kernel(torch.randn(2, 2, 7, 7))
    assert is_symmetric(kernel)
    changed = kernel.clone()
    changed[(1, 0, *place)] *= 1 + 2**-20
    assert not is_symmetric(changed)


def test_its_multiply_adds_are_those_of_the_convolution():
    inputs = random_inputs(2, 16, 4, 5, 7)
    with FlopCounterMode(display=False) as counter:
        native.symmetric_conv(*inputs, NO_MARGINS)
    assert counter.get_total_flops() == 2 * 2 * 4 * 5 * (16 * 16 * 49 + 16 * 9)
