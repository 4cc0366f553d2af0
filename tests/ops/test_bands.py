"""A map cut into bands against the map as a whole."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from esc_arch.ops import bands
from esc_arch.ops.bands import by_bands, replace_first_channels
from esc_arch.ops.margins import Margins

FORMATS = [torch.contiguous_format, torch.channels_last]


def vertical_convolution(x, kernel):
    """(B, C, H, W) by a column of weights, zeros beyond the map: a loop in numpy."""
    halo = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (halo, halo), (0, 0)))
    return sum(weight * padded[:, :, i : i + x.shape[2]] for i, weight in enumerate(kernel))


class CountedConvolution:
    """``vertical_convolution`` in torch, and how often it was called."""

    def __init__(self, kernel):
        self.kernel = torch.from_numpy(kernel)
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        kernel = self.kernel.to(x.dtype).reshape(1, 1, -1, 1).expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, padding=(len(self.kernel) // 2, 0), groups=x.shape[1])


@pytest.fixture
def small_bands(monkeypatch):
    monkeypatch.setattr(bands, "PIXELS_PER_BAND", 12)
    monkeypatch.setattr(bands, "HALOS_PER_BAND", 2)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_is_the_function_of_the_whole_map(data):
    shape = [data.draw(st.integers(1, top)) for top in (3, 2, 14, 9)]
    halo = data.draw(st.integers(0, 3), "halo")
    residual = data.draw(st.sampled_from(["none", "some"]), "residual")
    reuse = data.draw(st.sampled_from(["none", "residual", "other", "misfit"]), "reuse")
    memory_format = data.draw(st.sampled_from(FORMATS), "format")
    numbers = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    kernel = numbers.standard_normal(2 * halo + 1)
    x, r, other = (
        torch.from_numpy(numbers.standard_normal(shape)).to(memory_format=memory_format)
        for _ in range(3)
    )
    before = x.clone()
    before_and_after = []
    for side in shape[2:]:
        first = data.draw(st.integers(0, side - 1), "margin before")
        before_and_after += [first, data.draw(st.integers(0, side - 1 - first), "margin after")]
    margins = Margins(*before_and_after)
    expected = margins.inner(torch.from_numpy(vertical_convolution(x.numpy(), kernel))).numpy()
    r, other = margins.inner(r), margins.inner(other)
    if residual == "none":
        r = None
    else:
        expected = r.numpy() + expected
    spare = {"none": None, "residual": r, "other": other, "misfit": torch.zeros(1, 1, 1, 1)}
    pixels = data.draw(st.integers(0, 40), "pixels of a band")
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "PIXELS_PER_BAND", pixels)
        patch.setattr(bands, "HALOS_PER_BAND", 2)
        result = by_bands(
            *(CountedConvolution(kernel), x),
            **{"halo": halo, "residual": r, "reuse": spare[reuse], "margins": margins},
        )
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-13)
    assert torch.equal(x, before)


def test_really_cuts(small_bands):
    function = CountedConvolution(np.ones(3))
    with torch.no_grad():
        by_bands(function, torch.rand(2, 1, 9, 4), halo=1)
    assert function.calls == 2 * 3


@pytest.mark.parametrize("shape", [(1, 1, 3, 4), (1, 1, 1, 12)])
def test_a_small_map_stays_whole(small_bands, shape):
    function = CountedConvolution(np.ones(3))
    with torch.no_grad():
        by_bands(function, torch.rand(shape), halo=1)
    assert function.calls == 1


def test_a_map_whose_gradient_may_be_asked_for_stays_whole(small_bands):
    function = CountedConvolution(np.ones(3))
    x = torch.rand(1, 2, 9, 4, requires_grad=True)
    spare = torch.rand(1, 2, 9, 4)
    before = spare.clone()
    by_bands(function, x, halo=1, residual=x, reuse=spare).sum().backward()
    assert function.calls == 1
    assert torch.equal(spare, before)
    # A pixel of an edge row reaches one row less.
    expected = torch.full((9, 4), 4.0)
    expected[[0, -1]] = 3
    torch.testing.assert_close(x.grad, expected.expand(1, 2, 9, 4))


def test_inference_mode_cuts_too(small_bands):
    function = CountedConvolution(np.ones(3))
    with torch.inference_mode():
        by_bands(function, torch.rand(1, 2, 9, 4), halo=1)
    assert function.calls > 1


def test_the_number_of_channels_may_change(small_bands):
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    expected = F.conv2d(x, weight, padding=1)
    with torch.no_grad():
        # The spare map has the channels of x, so it cannot take the result.
        result = by_bands(lambda x: F.conv2d(x, weight, padding=1), x, halo=1, reuse=x)
    torch.testing.assert_close(result, expected)


def test_a_pointwise_function_may_write_over_its_own_input(small_bands):
    x = torch.randn(2, 3, 9, 7)
    expected = 1 + 2 * x
    with torch.no_grad():
        result = by_bands(lambda x: 1 + 2 * x, x, reuse=x)
    assert result is x
    torch.testing.assert_close(result, expected)


def test_the_result_takes_the_spare_memory(small_bands):
    x, residual = torch.randn(2, 2, 3, 9, 7).unbind(0)
    expected = residual + x.abs()
    with torch.no_grad():
        result = by_bands(torch.abs, x, residual=residual, reuse=residual)
    assert result is residual
    torch.testing.assert_close(result, expected)


def test_residual_is_not_written_to_unless_it_is_spare(small_bands):
    x, residual, spare = torch.randn(3, 2, 3, 9, 7).unbind(0)
    before = residual.clone()
    with torch.no_grad():
        by_bands(torch.abs, x, residual=residual)
        by_bands(torch.abs, x, residual=residual, reuse=spare)
    assert torch.equal(residual, before)


@pytest.mark.parametrize("spare", ["none", "residual", "like band"])
@pytest.mark.parametrize("of_band", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of_residual", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_that_of_the_sum(small_bands, of_residual, of_band, spare):
    x = torch.randn(1, 2, 9, 7)
    residual = torch.randn(1, 2, 9, 7).to(of_residual)
    expected = residual + x.to(of_band)
    reuse = {"none": None, "residual": residual, "like band": torch.empty_like(x, dtype=of_band)}
    with torch.no_grad():
        result = by_bands(lambda x: x.to(of_band), x, residual=residual, reuse=reuse[spare])
    assert result.dtype == expected.dtype
    assert torch.equal(result, expected)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("p", [1, 3, 4])
def test_replaces_the_first_channels(small_bands, p, memory_format):
    x = torch.randn(2, 4, 9, 7).to(memory_format=memory_format)
    first = torch.randn(2, p, 9, 7)
    expected = np.concatenate([first.numpy(), x.numpy()[:, p:]], axis=1)
    before = x.clone()
    assert np.array_equal(replace_first_channels(x, first).numpy(), expected)
    assert torch.equal(x, before)
    with torch.no_grad():
        assert np.array_equal(replace_first_channels(x, first).numpy(), expected)


def test_replaced_channels_pass_gradients_on(small_bands):
    x = torch.randn(1, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    first = torch.randn(1, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(replace_first_channels, (x, first))
