"""A map cut into bands against the map as a whole, and how far modules look."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esc_arch import fast
from esc_arch.archs.esc_arch import (
    ConvAttnWrapper,
    ConvFFN,
    ConvolutionalAttention,
    ESCBlock,
    ESCConfig,
    WindowAttention,
)
from esc_arch.archs.esc_fp_arch import FactorizedConvAttention
from esc_arch.fast import executor
from esc_arch.fast.maps import Region
from esc_arch.layers.channels_last import ChannelLayerNorm, GlobalMean
from esc_arch.layers.upsamplers import DySample, nearest_conv

FORMATS = [torch.contiguous_format, torch.channels_last]


def vertical_convolution(x, kernel):
    """(B, C, H, W) by a column of weights, zeros beyond the map: a loop in numpy."""
    halo = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (halo, halo), (0, 0)))
    return sum(weight * padded[:, :, i : i + x.shape[2]] for i, weight in enumerate(kernel))


def column(kernel, channels, dtype=torch.float64):
    """``vertical_convolution`` as a module."""
    size = len(kernel)
    padding, rest = (size // 2, 0), {"groups": channels, "bias": False, "dtype": dtype}
    conv = nn.Conv2d(channels, channels, (size, 1), padding=padding, **rest)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(np.asarray(kernel)).view(1, 1, -1, 1))
    return conv


class Counted:
    """Calls modules one after the other, and counts how often."""

    def __init__(self, *modules):
        self.modules = modules
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        for module in self.modules:
            x = module(x)
        return x


def calls_of(modules, x, **given):
    counted = Counted(*modules)
    fast.in_bands(modules, x, function=counted, **given)
    return counted.calls


@pytest.fixture
def small_bands(monkeypatch):
    monkeypatch.setattr(executor, "PIXELS_PER_BAND", 12)
    monkeypatch.setattr(executor, "HALOS_PER_BAND", 2)


def draw_map_and_columns(data):
    """A map, its size and columns of weights; at random."""
    shape = [data.draw(st.integers(1, top)) for top in (3, 2, 14, 9)]
    halos = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3), "halos")
    memory_format = data.draw(st.sampled_from(FORMATS), "format")
    numbers = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    kernels = [numbers.standard_normal(2 * halo + 1) for halo in halos]
    maps = (
        torch.from_numpy(numbers.standard_normal(shape)).to(memory_format=memory_format)
        for _ in range(3)
    )
    return shape, kernels, *maps


def of_whole_map(x, kernels):
    result = x.numpy()
    for kernel in kernels:
        result = vertical_convolution(result, kernel)
    return result


def bands_of(pixels, patch):
    patch.setattr(executor, "PIXELS_PER_BAND", pixels)
    patch.setattr(executor, "HALOS_PER_BAND", 2)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_is_the_modules_of_the_whole_map(data):
    shape, kernels, x, residual, _ = draw_map_and_columns(data)
    before, residual_before = x.clone(), residual.clone()
    expected = of_whole_map(x, kernels)
    if data.draw(st.booleans(), "residual"):
        expected = residual.numpy() + expected
        given_residual = residual
    else:
        given_residual = None
    modules = [column(kernel, shape[1]) for kernel in kernels]
    pixels = data.draw(st.integers(0, 40), "pixels of a band")
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        bands_of(pixels, patch)
        result = fast.in_bands(modules, x, given_residual)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)
    assert torch.equal(x, before) and torch.equal(residual, residual_before)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_is_the_modules_of_a_part_of_the_map(data):
    """What lies around the part is looked at only."""
    shape, kernels, x, residual, other = draw_map_and_columns(data)
    sides = []
    for side in shape[2:]:
        first = data.draw(st.integers(0, side - 1), "margin before")
        after = data.draw(st.integers(0, side - 1 - first), "margin after")
        sides += [first, side - after]
    inner = Region(*sides)
    before, residual_before = x.clone(), residual.clone()
    (top, bottom, left, right) = sides
    expected = of_whole_map(x, kernels)[:, :, top:bottom, left:right]
    given_residual = data.draw(st.sampled_from([None, residual]), "residual")
    if given_residual is not None:
        given_residual = given_residual[:, :, top:bottom, left:right]
        expected = given_residual.numpy() + expected
    kind = data.draw(st.sampled_from(["none", "other", "residual"]), "out")
    out = {"none": None, "other": inner.of(other), "residual": given_residual}[kind]
    modules = [column(kernel, shape[1]) for kernel in kernels]
    pixels = data.draw(st.integers(0, 40), "pixels of a band")
    outside = other.clone()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        bands_of(pixels, patch)
        result = executor.by_modules(modules, x, inner, out, given_residual)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)
    assert torch.equal(x, before)
    assert out is None or result is out
    if out is not given_residual or out is None:
        assert torch.equal(residual, residual_before)
    inner.of(outside).copy_(inner.of(other))
    assert torch.equal(other, outside)


def test_really_cuts(small_bands):
    with torch.no_grad():
        assert calls_of([column(np.ones(3), 1, torch.float32)], torch.rand(2, 1, 9, 4)) == 2 * 3


@pytest.mark.parametrize("shape", [(1, 1, 3, 4), (1, 1, 1, 12)])
def test_a_small_map_stays_whole(small_bands, shape):
    modules = [column(np.ones(3), 1, torch.float32)]
    with torch.no_grad():
        assert calls_of(modules, torch.rand(shape)) == 1


def test_a_map_whose_gradient_may_be_asked_for_stays_whole(small_bands):
    modules = [column(np.ones(3), 2, torch.float32)]
    counted = Counted(*modules)
    x = torch.rand(1, 2, 9, 4, requires_grad=True)
    fast.in_bands(modules, x, residual=x, function=counted).sum().backward()
    assert counted.calls == 1
    # A pixel of an edge row reaches one row less.
    expected = torch.full((9, 4), 4.0)
    expected[[0, -1]] = 3
    torch.testing.assert_close(x.grad, expected.expand(1, 2, 9, 4))


def test_inference_mode_cuts_too(small_bands):
    with torch.inference_mode():
        assert calls_of([column(np.ones(3), 2, torch.float32)], torch.rand(1, 2, 9, 4)) > 1


class Tripled(nn.Conv2d):
    def forward(self, x):
        return 3 * super().forward(x)


class OfWholeMap(nn.Module):
    """Its result at a pixel depends on all the others."""

    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


def hooked():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    conv.register_forward_hook(lambda module, args, y: None)
    return conv


def hooked_before():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    conv.register_forward_pre_hook(lambda module, args: None)
    return conv


def hooked_inside():
    return nn.Sequential(nn.GELU(), nn.Sequential(hooked()))


def patched():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    conv.forward = lambda x: -x
    return conv


NOT_CUT = {
    "hook": hooked,
    "pre-hook": hooked_before,
    "hook inside": hooked_inside,
    "patched": patched,
    "subclass": lambda: Tripled(2, 2, 3, padding=1),
    "unknown": OfWholeMap,
    "unknown inside": lambda: nn.Sequential(nn.Identity(), OfWholeMap()),
    "not local": lambda: DySample(4, 2, 2),
    "stride": lambda: nn.Conv2d(2, 2, 3, stride=2, padding=1),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("case", NOT_CUT)
@torch.no_grad()
def test_what_is_not_known_to_be_local_stays_whole(small_bands, case):
    module = NOT_CUT[case]()
    x = torch.rand(1, 4 if case == "not local" else 2, 9, 4)
    expected = module(x)
    assert calls_of([module], x) == 1
    if case == "not local":  # it cuts itself
        torch.testing.assert_close(fast.in_bands([module], x), expected)
    else:
        assert torch.equal(fast.in_bands([module], x), expected)
        assert torch.equal(fast.in_bands([nn.Identity(), module], x), expected)


def test_a_hook_is_called_once(small_bands):
    shapes = []
    module = nn.Conv2d(2, 2, 3, padding=1)
    module.register_forward_hook(lambda module, args, y: shapes.append(tuple(y.shape)))
    with torch.no_grad():
        fast.in_bands([module], torch.rand(2, 2, 9, 4))
    assert shapes == [(2, 2, 9, 4)]


@pytest.mark.parametrize("register", ["forward_hook", "forward_pre_hook"])
def test_a_global_hook_keeps_the_map_whole(small_bands, register):
    handle = getattr(nn.modules.module, f"register_module_{register}")(lambda *_: None)
    try:
        with torch.no_grad():
            assert calls_of([nn.Conv2d(2, 2, 3, padding=1)], torch.rand(2, 2, 9, 4)) == 1
    finally:
        handle.remove()


@torch.no_grad()
def test_the_number_of_channels_may_change(small_bands):
    conv = nn.Conv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(
        fast.in_bands([conv], x), F.conv2d(x, conv.weight, conv.bias, padding=1)
    )


@torch.no_grad()
def test_a_pointwise_module_may_write_over_its_own_input(small_bands):
    conv = nn.Conv2d(3, 3, 1)
    x = torch.randn(2, 3, 9, 7)
    expected = conv(x)
    result = executor.by_modules([conv], x, Region(0, 9, 0, 7), out=x)
    assert result is x
    torch.testing.assert_close(result, expected)


@torch.no_grad()
def test_residual_is_not_written_to(small_bands):
    x, residual = torch.randn(2, 2, 3, 9, 7).unbind(0)
    before = residual.clone()
    fast.in_bands([nn.Identity()], x, residual=residual, function=torch.abs)
    assert torch.equal(residual, before)


@pytest.mark.parametrize("of_band", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of_residual", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_dtype_is_that_of_the_sum(small_bands, of_residual, of_band):
    x = torch.randn(1, 2, 9, 7)
    residual = torch.randn(1, 2, 9, 7).to(of_residual)
    expected = residual + x.to(of_band)
    result = fast.in_bands([nn.Identity()], x, residual, function=lambda x: x.to(of_band))
    assert result.dtype == expected.dtype
    assert torch.equal(result, expected)


def conv(kernel, channels=2, out_channels=None, dilation=1):
    padding = kernel // 2 * dilation
    return nn.Conv2d(channels, out_channels or channels, kernel, padding=padding, dilation=dilation)


CHAINS = {
    # Halo in pixels of the input, and the scale.
    "nothing": ((0, 1), lambda: [nn.Identity()]),
    "1x1": ((0, 1), lambda: [conv(1), nn.GELU(), conv(1)]),
    "convolutions": ((3, 1), lambda: [conv(3), nn.LeakyReLU(), conv(5)]),
    "dilated": ((6, 1), lambda: [conv(5, dilation=3)]),
    "sequence": ((2, 1), lambda: [nn.Sequential(conv(3), nn.Sequential(conv(3)))]),
    "norm and network": ((1, 1), lambda: [ChannelLayerNorm(2), ConvFFN(2, 2)]),
    "finer": ((1, 2), lambda: [nn.Upsample(scale_factor=2), conv(3)]),
    "before and after": ((2, 2), lambda: [conv(3), nn.Upsample(scale_factor=2), conv(3)]),
    "half and half": ((1, 2), lambda: [nn.Upsample(scale_factor=2), conv(3), conv(3)]),
    "a bit more": ((2, 2), lambda: [nn.Upsample(scale_factor=2), conv(3), conv(5)]),
    "shuffle": ((1, 3), lambda: [conv(3, 2, 18), nn.PixelShuffle(3)]),
    "shuffle first": ((1, 3), lambda: [conv(1, 2, 18), nn.PixelShuffle(3), conv(7)]),
    "x4 in two steps": (
        (2, 4),
        lambda: [conv(3, 2, 8), nn.PixelShuffle(2), conv(3, 2, 8), nn.PixelShuffle(2), conv(3)],
    ),
    "nearest and conv": ((2, 4), lambda: [nearest_conv(2)]),
}


@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_reach_of_chains(name, monkeypatch):
    expected, make = CHAINS[name]
    modules = [module.double() for module in make()]
    assert fast.reach(modules) == expected
    # It is enough, and no more than one pixel too many.
    monkeypatch.setattr(executor, "PIXELS_PER_BAND", 12)
    monkeypatch.setattr(executor, "HALOS_PER_BAND", 1)
    x = torch.randn(2, 2, 15, 5, dtype=torch.float64)
    result, whole = fast.in_bands(modules, x), Counted(*modules)(x)
    torch.testing.assert_close(result, whole, rtol=0, atol=1e-12)
    assert calls_of(modules, x) > 2
    halo, scale = expected
    changed = x.clone()
    changed[:, :, 7, 2] += 1
    rows = (Counted(*modules)(changed) != whole).any(3).any(1).any(0).nonzero()
    assert rows.min() // scale >= 7 - halo and rows.max() // scale <= 7 + halo
    assert halo == 0 or rows.max() // scale > 7 + halo - 1


BLOCK = ESCConfig(16, 8, 5, 1, 1, 4, 2, 2)


@pytest.mark.parametrize(
    "make",
    [
        GlobalMean,
        lambda: DySample(4, 3, 2),
        lambda: WindowAttention(16, 4, 2),
        lambda: ConvolutionalAttention(8),
        lambda: FactorizedConvAttention(8),
        lambda: ConvAttnWrapper(16, ConvolutionalAttention(8)),
        lambda: ESCBlock(BLOCK, use_ln=False),
        lambda: nn.Conv2d(2, 2, 3, stride=2, padding=1),
        lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        lambda: nn.Conv2d(2, 2, 3),
        lambda: nn.Conv2d(2, 2, 2),
        lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        lambda: nn.Upsample(scale_factor=1.5),
        lambda: nn.Upsample(size=(7, 7)),
        lambda: nn.Upsample(scale_factor=(2, 3)),
    ],
    ids=[
        "mean",
        "dysample",
        "windows",
        "conv_attention",
        "factorized",
        "wrapper",
        "block",
        "strided",
        "circular",
        "unpadded",
        "even",
        "bilinear",
        "fraction",
        "to_size",
        "two_scales",
    ],
)
def test_reach_is_not_known_of_what_looks_at_the_whole_map_or_moves_it(make):
    assert fast.reach([nn.Identity(), make()]) is None
