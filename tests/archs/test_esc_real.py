"""ESC-Real and ESC-Real-M: scales, upsamplers, DySample."""

import pytest
import torch

from esc_arch import ESCReal, ESCRealM
from esc_arch.fast import executor
from esc_arch.layers.upsamplers import UPSAMPLERS, DySample
from tests import tiny
from tests.reference_cases import deviation, fill_parameters

SMALL = {**tiny.SIZES, "dim": 16, "kernel_size": 7}


@pytest.mark.parametrize("unshuffle_mod", [True, False])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_every_upsampler_at_every_scale(upsampler, scale, unshuffle_mod, monkeypatch):
    arguments = {"upsampler": upsampler, "unshuffle_mod": unshuffle_mod}
    inner_scale = 4 if unshuffle_mod and scale < 3 else scale
    if upsampler == "conv" and inner_scale > 1:
        with pytest.raises(ValueError, match=f"'conv' does not enlarge, but x{inner_scale}"):
            ESCRealM(**SMALL, upscaling_factor=scale, **arguments)
        return
    network = fill_parameters(ESCRealM(**SMALL, upscaling_factor=scale, **arguments)).eval()
    for size in [(1, 1), (2, 3), (13, 10)]:
        x = torch.rand(2, 3, *size)
        with torch.no_grad():
            whole = network(x)
            assert whole.shape == (2, 3, size[0] * scale, size[1] * scale)
            monkeypatch.setattr(executor, "PIXELS_PER_BAND", 4)
            monkeypatch.setattr(executor, "HALOS_PER_BAND", 1)
            cut = network(x)
            monkeypatch.undo()
        assert deviation(cut, whole) < 1e-5


@pytest.mark.parametrize("upsampler", ["bicubic", ""])
def test_unknown_upsamplers_are_named(upsampler):
    with pytest.raises(ValueError, match="known are conv, pixelshuffledirect"):
        ESCRealM(**SMALL, upscaling_factor=2, upsampler=upsampler)


@pytest.mark.parametrize("scale", [0, 5])
def test_esc_real_m_refuses_other_scales(scale):
    with pytest.raises(ValueError, match=f"upscaling_factor {scale}"):
        ESCRealM(**SMALL, upscaling_factor=scale)


def test_esc_real_obeys_its_scale_or_refuses_it():
    with pytest.raises(ValueError, match="ESCReal enlarges 4 times, upscaling_factor is 2"):
        ESCReal(**SMALL, upscaling_factor=2)
    for scale in (1, 2, 3, 4):
        network = ESCReal(**SMALL, upscaling_factor=scale, use_dysample=True).eval()
        with torch.no_grad():
            assert network(torch.rand(1, 3, 5, 9)).shape == (1, 3, 5 * scale, 9 * scale)


def sample_by_loops(layer: DySample, x: torch.Tensor) -> torch.Tensor:
    """DySample pixel by pixel: each finer pixel takes its group's values at its own place."""
    batch, channels, height, width = x.shape
    r, groups = layer.scale, layer.groups
    offsets = layer.offset(x) * layer.scope(x).sigmoid() * 0.5
    offsets = offsets.reshape(batch, 2, groups, r, r, height, width)
    result = x.new_empty(batch, channels, height * r, width * r)
    for b in range(batch):
        for c in range(channels):
            g = c // (channels // groups)
            for i in range(height * r):
                for j in range(width * r):
                    dx, dy = offsets[b, :, g, i % r, j % r, i // r, j // r].tolist()
                    column = (j + 0.5) / r - 0.5 + dx
                    row = (i + 0.5) / r - 0.5 + dy
                    result[b, c, i, j] = bilinear(x[b, c], row, column)
    return layer.end_conv(result)


def bilinear(channel: torch.Tensor, row: float, column: float) -> float:
    height, width = channel.shape
    row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    top, left = int(row), int(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = row - top, column - left
    upper = (1 - x) * channel[top, left] + x * channel[top, right]
    lower = (1 - x) * channel[bottom, left] + x * channel[bottom, right]
    return ((1 - y) * upper + y * lower).item()


# The thirds of the centres at x3 are stored in float32.
@pytest.mark.parametrize(("scale", "bound"), [(2, 1e-12), (3, 1e-7)])
def test_dysample_by_loops(scale, bound):
    layer = fill_parameters(DySample(8, 3, scale)).double()
    x = torch.rand(2, 8, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), sample_by_loops(layer, x), rtol=0, atol=bound)


def test_dysample_starts_as_bilinear_upsampling():
    layer = DySample(8, 3, 2).double()
    torch.nn.init.zeros_(layer.offset.bias)
    torch.nn.init.zeros_(layer.offset.weight)
    x = torch.rand(1, 8, 5, 6, dtype=torch.float64)
    bilinear = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(layer(x), layer.end_conv(bilinear))
