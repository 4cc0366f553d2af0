"""The compiled convolution by a symmetric kernel against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F

from esc_arch.fast import kernels
from esc_arch.fast.kernels import NO_MARGINS, Margins

pytestmark = pytest.mark.usefixtures("lanes")


def symmetric(kernel):
    """The mean over the flips and quarter turns, with the same bits wherever they lead."""
    kernel = kernel + kernel.flip(-2)
    kernel = kernel + kernel.flip(-1)
    return (kernel + kernel.transpose(-2, -1)) / 8


def random_inputs(batch, p, height, width, k):
    numbers = torch.Generator().manual_seed(p + k)
    x = torch.randn(batch, height, width, p + 5, generator=numbers).permute(0, 3, 1, 2)[:, :p]
    kernel = symmetric(torch.randn(p, p, k, k, generator=numbers) / k)
    return x, kernel, torch.randn(batch, p, 3, 3, generator=numbers)


def in_float64(x, kernel, dynamic_kernel):
    x, kernel = x.double(), kernel.double()
    y = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
    for image, kernels_of_image in enumerate(dynamic_kernel.double()):
        depthwise = kernels_of_image.unsqueeze(1)
        y[image] += F.conv2d(x[image], depthwise, padding=1, groups=len(depthwise))
    return y


def by_kernel(x, kernel, dynamic_kernel, margins=NO_MARGINS):
    top, bottom, left, right = margins
    batch, p, height, width = x.shape
    out = torch.full((batch, height - top - bottom, width - left - right, p), float("nan"))
    out = out.permute(0, 3, 1, 2)
    kernels.symmetric_conv(x, kernel, dynamic_kernel, out, margins)
    return out


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
    result = by_kernel(x, kernel, dynamic_kernel).double()
    expected = in_float64(x, kernel, dynamic_kernel)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5 * expected.std().item())


@pytest.mark.parametrize("margins", [(6, 6, 6, 6), (0, 9, 2, 0), (3, 0, 0, 30), (0, 1, 20, 4)])
def test_looks_at_the_margins_and_not_beyond(margins):
    """The part of a convolution whose input ends with the margins."""
    top, bottom, left, right = margins
    x, kernel, dynamic_kernel = random_inputs(2, 16, 28, 120, 13)
    image = torch.full((2, 30, 130, 20), float("nan")).permute(0, 3, 1, 2)
    part = image[:, :16, 1:-1, 4:-6]
    part.copy_(x)
    result = by_kernel(part, kernel, dynamic_kernel, Margins(*margins)).double()
    expected = in_float64(x, kernel, dynamic_kernel)[:, :, top : 28 - bottom, left : 120 - right]
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5 * expected.std().item())


def test_writes_a_part_of_a_map():
    x, kernel, dynamic_kernel = random_inputs(2, 16, 20, 110, 13)
    memory = torch.zeros(2, 16, 30, 120).contiguous(memory_format=torch.channels_last)
    place = memory[:, :, 3:23, 7:117]
    assert kernels.takes_result(place)
    kernels.symmetric_conv(x, kernel, dynamic_kernel, place)
    assert torch.equal(place, by_kernel(x, kernel, dynamic_kernel))
    place.zero_()
    assert not memory.any()


def test_takes_any_format():
    x, kernel, dynamic_kernel = random_inputs(2, 16, 5, 30, 5)
    expected = by_kernel(x, kernel, dynamic_kernel)
    assert torch.equal(by_kernel(x.contiguous(), kernel, dynamic_kernel), expected)


def test_any_number_of_threads(check_threads):
    inputs = random_inputs(1, 16, 21, 100, 13)
    check_threads(lambda: [by_kernel(*inputs)])
