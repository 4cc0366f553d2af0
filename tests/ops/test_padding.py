"""Reflection padding against numpy's."""

import numpy as np
import pytest
import torch

from esc_arch.ops.padding import (
    crop_bottom_right,
    reflect_pad_bottom_right,
    symmetric_pad_bottom_right,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int64]


def by_numpy(x, bottom, right):
    return np.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")


@pytest.mark.parametrize("side", range(1, 10))
def test_is_numpy_reflection_for_any_pad(side):
    image = np.arange(2 * side * (side + 1) * 3).reshape(2, side, side + 1, 3)
    for pad in range(41):
        other = (7 * pad + side) % 41
        result = reflect_pad_bottom_right(torch.from_numpy(image), pad, other)
        assert np.array_equal(result.numpy(), by_numpy(image, pad, other)), (pad, other)


@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_symmetric_is_numpy_s_for_any_pad(side):
    image = np.arange(2 * side * (side + 1) * 3).reshape(2, side, side + 1, 3)
    for pad in range(31):
        other = (7 * pad + side) % 31
        result = symmetric_pad_bottom_right(torch.from_numpy(image), pad, other)
        expected = np.pad(image, ((0, 0), (0, pad), (0, other), (0, 0)), mode="symmetric")
        assert np.array_equal(result.numpy(), expected), (pad, other)


@pytest.mark.parametrize("bottom, right", [(0, 5), (5, 0)])
def test_pads_one_side_only(bottom, right):
    image = np.arange(24).reshape(1, 4, 3, 2)
    result = reflect_pad_bottom_right(torch.from_numpy(image), bottom, right)
    assert np.array_equal(result.numpy(), by_numpy(image, bottom, right))


@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_dtype(dtype):
    image = np.arange(18).reshape(1, 2, 3, 3)
    result = reflect_pad_bottom_right(torch.from_numpy(image).to(dtype), 9, 4)
    assert result.dtype == dtype
    assert np.array_equal(result.long().numpy(), by_numpy(image, 9, 4))


def test_nothing_to_add_gives_the_same_object():
    x = torch.rand(1, 3, 4, 2)
    assert reflect_pad_bottom_right(x, 0, 0) is x


def test_does_not_write_to_its_input():
    x = torch.rand(1, 3, 4, 2)
    before = x.clone()
    reflect_pad_bottom_right(x, 5, 5).zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (4, 1)])
def test_gradient(height, width):
    x = torch.rand(1, height, width, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: reflect_pad_bottom_right(x, 6, 3), x)


class ToMultipleOfFour(torch.nn.Module):
    def forward(self, x):
        return reflect_pad_bottom_right(x, -x.shape[1] % 4, -x.shape[2] % 4)


def exported(module):
    sizes = {1: torch.export.Dim("height", max=64), 2: torch.export.Dim("width", max=64)}
    example = (torch.rand(1, 5, 6, 2),)
    return torch.export.export(module, example, dynamic_shapes=(sizes,)).module()


def test_one_exported_graph_holds_for_many_sizes():
    program = exported(ToMultipleOfFour())
    for height, width in [(5, 6), (1, 2), (9, 1), (1, 1), (2, 3), (3, 2), (4, 8), (7, 4), (64, 33)]:
        x = np.random.default_rng(0).random((1, height, width, 2))
        result = program(torch.from_numpy(x).float()).numpy()
        assert np.array_equal(result, by_numpy(np.float32(x), -height % 4, -width % 4))


def test_crop_is_a_slice_and_a_view():
    x = torch.rand(2, 5, 6, 3)
    result = crop_bottom_right(x, 4, 1)
    assert np.array_equal(result.numpy(), x.numpy()[:, :4, :1])
    assert result.data_ptr() == x.data_ptr()


class PadAndCrop(ToMultipleOfFour):
    def forward(self, x):
        return crop_bottom_right(super().forward(x), x.shape[1], x.shape[2])


def test_crop_undoes_pad_in_an_exported_graph():
    program = exported(PadAndCrop())
    for height, width in [(5, 6), (1, 2), (4, 8), (9, 1)]:
        x = torch.rand(1, height, width, 2)
        assert torch.equal(program(x), x)
