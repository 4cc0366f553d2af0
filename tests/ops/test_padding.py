"""Padding by reflection against numpy's."""

import numpy as np
import pytest
import torch

from esc_arch.ops.padding import crop, pad_to_windows, reflect_pad

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int64]


def by_numpy(x, bottom, right, top=0, left=0, mode="reflect"):
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), mode=mode)


def pad_bottom_right(x, bottom, right):
    return reflect_pad(x, 0, bottom, 0, right)


@pytest.mark.parametrize("side", range(1, 10))
def test_is_numpy_reflection_for_any_pad(side):
    image = np.arange(2 * side * (side + 1) * 3).reshape(2, 3, side, side + 1)
    for pad in range(41):
        other = (7 * pad + side) % 41
        result = pad_bottom_right(torch.from_numpy(image), pad, other)
        assert np.array_equal(result.numpy(), by_numpy(image, pad, other)), (pad, other)


@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_is_numpy_reflection_on_all_sides(side):
    image = np.arange(2 * side * (side + 1) * 3).reshape(2, 3, side, side + 1)
    for pad in range(31):
        pads = [(factor * pad + side) % 31 for factor in (1, 7, 11, 5)]
        bottom, right, top, left = pads
        result = reflect_pad(torch.from_numpy(image), top, bottom, left, right)
        assert np.array_equal(result.numpy(), by_numpy(image, *pads)), pads


@pytest.mark.parametrize("mode", ["reflect", "symmetric"])
@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_whole_windows_are_numpy_s_for_any_pad(side, mode):
    image = np.arange(2 * side * (side + 1) * 3).reshape(2, 3, side, side + 1)
    for pad in range(31):
        other = (7 * pad + side) % 31
        # One window, of the size that is wanted.
        window = (side + pad, side + 1 + other)
        result = pad_to_windows(torch.from_numpy(image), window, mode)
        expected = by_numpy(image, pad, other, mode=mode)
        assert np.array_equal(result.numpy(), expected), (pad, other)


@pytest.mark.parametrize("mode", ["reflect", "symmetric"])
@pytest.mark.parametrize("window", [(1, 1), (2, 5), (4, 3), (8, 8)])
def test_extends_to_several_windows(window, mode):
    image = np.arange(2 * 9 * 13).reshape(1, 2, 9, 13)
    result = pad_to_windows(torch.from_numpy(image), window, mode)
    expected = by_numpy(image, -9 % window[0], -13 % window[1], mode=mode)
    assert np.array_equal(result.numpy(), expected)


def test_an_unknown_mode_is_refused():
    with pytest.raises(KeyError):
        pad_to_windows(torch.rand(1, 1, 3, 3), (4, 4), "edge")


@pytest.mark.parametrize("bottom, right", [(0, 5), (5, 0)])
def test_pads_one_side_only(bottom, right):
    image = np.arange(24).reshape(1, 2, 4, 3)
    result = pad_bottom_right(torch.from_numpy(image), bottom, right)
    assert np.array_equal(result.numpy(), by_numpy(image, bottom, right))


@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_dtype(dtype):
    image = np.arange(18).reshape(1, 3, 2, 3)
    result = pad_bottom_right(torch.from_numpy(image).to(dtype), 9, 4)
    assert result.dtype == dtype
    assert np.array_equal(result.long().numpy(), by_numpy(image, 9, 4))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_result_is_channels_last(memory_format):
    x = torch.rand(2, 3, 5, 4).to(memory_format=memory_format)
    for result in (reflect_pad(x, 1, 0, 0, 2), pad_to_windows(x, (4, 4))):
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_nothing_to_add_gives_the_same_object():
    x = torch.rand(1, 2, 3, 4)
    assert pad_bottom_right(x, 0, 0) is x
    for mode in ("reflect", "symmetric"):
        assert pad_to_windows(x, (3, 2), mode) is x


def test_does_not_write_to_its_input():
    x = torch.rand(1, 2, 3, 4)
    before = x.clone()
    pad_bottom_right(x, 5, 5).zero_()
    pad_to_windows(x, (5, 5), "symmetric").zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (4, 1)])
def test_gradient(height, width):
    x = torch.rand(1, 2, height, width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad_bottom_right(x, 6, 3), x)
    assert torch.autograd.gradcheck(lambda x: pad_to_windows(x, (7, 6), "symmetric"), x)


class ToMultipleOfFour(torch.nn.Module):
    def forward(self, x):
        return reflect_pad(x, 0, -x.shape[2] % 4, 0, -x.shape[3] % 4)


class ToWindows(torch.nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def forward(self, x):
        return pad_to_windows(x, (4, 4), self.mode)


def exported(module):
    sizes = {2: torch.export.Dim("height", max=64), 3: torch.export.Dim("width", max=64)}
    example = (torch.rand(1, 2, 5, 6),)
    return torch.export.export(module, example, dynamic_shapes=(sizes,)).module()


EXPORTED = {
    "by pixels": (ToMultipleOfFour(), "reflect"),
    "windows": (ToWindows("reflect"), "reflect"),
    "symmetric": (ToWindows("symmetric"), "symmetric"),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_one_exported_graph_holds_for_many_sizes(name):
    module, mode = EXPORTED[name]
    program = exported(module)
    for height, width in [(5, 6), (1, 2), (9, 1), (1, 1), (2, 3), (3, 2), (4, 8), (7, 4), (64, 33)]:
        x = np.random.default_rng(0).random((1, 2, height, width))
        result = program(torch.from_numpy(x).float()).numpy()
        expected = by_numpy(np.float32(x), -height % 4, -width % 4, mode=mode)
        assert np.array_equal(result, expected)


def test_crop_is_a_slice_and_a_view():
    x = torch.rand(2, 3, 5, 6)
    result = crop(x, 4, 1)
    assert np.array_equal(result.numpy(), x.numpy()[:, :, :4, :1])
    assert result.data_ptr() == x.data_ptr()


class PadAndCrop(ToWindows):
    def forward(self, x):
        return crop(super().forward(x), x.shape[2], x.shape[3])


@pytest.mark.parametrize("mode", ["reflect", "symmetric"])
def test_crop_undoes_pad_in_an_exported_graph(mode):
    program = exported(PadAndCrop(mode))
    for height, width in [(5, 6), (1, 2), (4, 8), (9, 1)]:
        x = torch.rand(1, 2, height, width)
        assert torch.equal(program(x), x)
