"""The fast way to shrink 8-bit images against the plain one, and why they agree."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import esc_arch.imaging.imresize as resizing
from esc_arch.imaging.imresize import Pass, imresize, taps

FACTORS = (2, 3, 4, 8)


def exact_weights(s: int) -> list[Fraction]:
    """Keys' kernel with a = -1/2, stretched by s, at the taps of one output pixel."""

    def cubic(x: Fraction) -> Fraction:
        if x <= 1:
            return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
        return -(x**3) / 2 + Fraction(5, 2) * x**2 - 4 * x + 2 if x <= 2 else Fraction(0)

    centre = Fraction(s - 1, 2)
    values = [cubic(abs(centre - index) / s) for index in range(-3 * s, 4 * s)]
    return [value / sum(values) for value in values if value]


@pytest.mark.parametrize("s", FACTORS)
@pytest.mark.parametrize("bits", ["PyTorch", "Pillow"])
def test_weights_of_few_bits_round_every_sum_alike(bits, s):
    """The claim of the module, for every image there can be.

    PyTorch takes as many fractional bits as the largest weight leaves room for in int16,
    Pillow 22.  The largest error of a sum of 8-bit values is smaller than the distance of any
    exact sum from one half, or there is no error at all.
    """
    weights = exact_weights(s)
    bits = 22 if bits == "Pillow" else math.floor(math.log2(2**15 / max(weights)))
    errors = [Fraction(round(w * 2**bits), 2**bits) - w for w in weights]
    largest = 255 * max(sum(e for e in errors if e > 0), -sum(e for e in errors if e < 0))
    denominator = math.lcm(*(w.denominator for w in weights))
    if largest:
        assert denominator % 2 == 1  # so no sum is one half
        assert largest < Fraction(1, 2 * denominator)


@pytest.mark.parametrize("s", FACTORS)
def test_the_weights_are_those_of_the_plain_way(s):
    _, weights = taps(Pass(20 * s, 20, 1 / s))
    middle = weights[10][np.abs(weights[10]) > 1e-12]
    np.testing.assert_allclose(middle, [float(w) for w in exact_weights(s)], rtol=1e-12)


@pytest.mark.parametrize("s", FACTORS)
@pytest.mark.parametrize("shape", [(5, 6), (9, 31), (64, 70)])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)])
@pytest.mark.parametrize("kernel", [resizing.by_pytorch, resizing.by_pillow])
def test_both_ways_agree(kernel, shape, channels, s):
    size = (shape[0] * s, shape[1] * s)
    image = np.random.default_rng(0).choice([0, 1, 128, 254, 255], (*size, *channels))
    image = image.astype(np.uint8)
    height, width = (Pass(n, n // s, 1 / s) for n in size)
    fast = resizing.shrink(kernel, image, s)
    np.testing.assert_array_equal(fast, resizing.resize_plainly(image, height, width))
    assert fast.flags.c_contiguous


@pytest.mark.parametrize("s", FACTORS)
def test_the_fast_way_is_taken_here(s, monkeypatch):
    image = np.zeros((40 * s, 24 * s, 3), np.uint8)
    assert resizing.is_exact(resizing.by_pytorch, s)
    assert resizing.is_exact(resizing.by_pillow, s)
    monkeypatch.setattr(resizing, "resize_plainly", None)
    assert imresize(image, 1 / s).shape == (40, 24, 3)
    assert imresize(image[: 20 * s, ::-1], size=(20, 24)).shape == (20, 24, 3)


def test_another_kernel_is_noticed(monkeypatch):
    """A PyTorch that rounds otherwise is not used, and the values stay right."""
    real = torch.ops.aten._upsample_bicubic2d_aa.out

    class Other:
        @staticmethod
        def out(*args, out):
            real(*args, out=out)
            out += (out == 128).to(torch.uint8)

    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = imresize(image, 1 / 2)
    monkeypatch.setattr(torch.ops.aten, "_upsample_bicubic2d_aa", Other)
    resizing.is_exact.cache_clear()
    try:
        assert not resizing.is_exact(resizing.by_pytorch, 2)
        np.testing.assert_array_equal(imresize(image, 1 / 2), expected)
    finally:
        resizing.is_exact.cache_clear()
