"""Effective receptive fields: stacks of convolutions whose field is known, and differences."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from esc_arch.analysis.erf import (
    CONVENTIONS,
    SHARES,
    areas,
    drawn,
    receptive_fields,
    resized,
)
from esc_arch.errors import UserError

N = 31  # side of the images; the centre is 15


def images(count=2, side=N, channels=1):
    rng = np.random.default_rng(0)
    return [rng.random((side, side, channels), dtype=np.float32) for _ in range(count)]


def ones(kernel, dilation=1, channels=(1, 1)):
    """A convolution by a kernel of ones."""
    pad = dilation * (kernel // 2)
    layer = nn.Conv2d(*channels, kernel, padding=pad, dilation=dilation, bias=False)
    nn.init.ones_(layer.weight)
    return layer.requires_grad_(False)


def field_of(network, shown, convention):
    """Of an output without a name."""
    planes = [torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() for image in shown]
    return receptive_fields(lambda x: {"": network(x)}, planes, convention)[""]


def placed(line):
    """The outer product of a line with itself, at the centre of an image."""
    whole = np.zeros(N)
    start = N // 2 - len(line) // 2
    whole[start : start + len(line)] = line
    return np.outer(whole, whole)


def convolved(line, times):
    out = np.ones(1)
    for _ in range(times):
        out = np.convolve(out, line)
    return out


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("network", "line"),
    [
        (nn.Sequential(ones(7)), np.ones(7)),
        (nn.Sequential(*[ones(3)] * 2), [1, 2, 3, 2, 1]),
        (nn.Sequential(*[ones(3)] * 3), [1, 3, 6, 7, 6, 3, 1]),  # trinomial coefficients
        (nn.Sequential(*[ones(3)] * 8), convolved([1, 1, 1], 8)),
        (nn.Sequential(ones(3, dilation=4)), [1, 0, 0, 0, 1, 0, 0, 0, 1]),
        (nn.Sequential(ones(3), ones(3, dilation=2)), [1, 1, 2, 1, 2, 1, 1]),
        (nn.Sequential(ones(1)), np.ones(1)),
    ],
    ids=["7x7", "two 3x3", "three 3x3", "eight 3x3", "dilated", "two rates", "1x1"],
)
def test_the_field_of_convolutions_by_ones(network, line, convention):
    found = field_of(network, images(), convention)
    np.testing.assert_allclose(found.contribution, placed(line), rtol=1e-6)
    assert (found.images, found.left_out) == (2, 0)


@pytest.mark.parametrize(("scale", "side"), [(2, 31), (3, 31), (4, 30)])
def test_the_centre_of_an_enlarged_output_lies_on_the_images_own(scale, side):
    network = nn.Sequential(ones(3), nn.Upsample(scale_factor=scale))
    found = field_of(network, images(side=side), "sr").contribution
    expected = np.zeros((side, side))
    expected[side // 2 - 1 : side // 2 + 2, side // 2 - 1 : side // 2 + 2] = 1
    np.testing.assert_array_equal(found, expected)


def test_sums_over_channels_of_both_ends():
    found = field_of(ones(3, channels=(3, 5)), images(channels=3), "sr")
    np.testing.assert_array_equal(found.contribution, 15 * placed(np.ones(3)))


def test_only_replknet_leaves_negative_outputs_out():
    """One output is positive and one negative: relu keeps the gradient of the first."""
    network = ones(3, channels=(1, 2))
    network.weight[1] *= -1
    network.weight[0, 0, 0, 0] = 2  # else the sum of all outputs has no gradient
    corner = placed([1])
    corner = np.roll(corner, (-1, -1), (0, 1))
    kept = field_of(network, images(), "replknet").contribution
    np.testing.assert_array_equal(kept, placed(np.ones(3)) + corner)
    np.testing.assert_array_equal(field_of(network, images(), "sr").contribution, corner)


def test_negative_gradients_are_left_out():
    network = ones(3)
    network.weight[0, 0, 1] = -0.25
    expected = placed(np.ones(3))
    expected[N // 2] = 0
    for convention in CONVENTIONS:
        found = field_of(network, images(), convention).contribution
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_network_by_differences_in_float64(convention):
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(6, 12, 3, padding=1),
        nn.PixelShuffle(2),
    ).requires_grad_(False)
    shown = images(count=3, side=10, channels=3)
    found = field_of(network, shown, convention).contribution
    network.double()
    expected = np.zeros((10, 10))
    for image in shown:
        planes = image.transpose(2, 0, 1).astype(np.float64)
        moves = 1e-6 * np.eye(planes.size).reshape(-1, *planes.shape)
        both = torch.from_numpy(np.concatenate([planes + moves, planes - moves]))
        centre = network(both).numpy()[:, :, 10, 10]
        centre = np.maximum(centre, 0) if convention == "replknet" else centre
        ahead, behind = np.split(centre.sum(1), 2)
        gradient = ((ahead - behind) / 2e-6).reshape(planes.shape)
        expected += np.maximum(gradient, 0).sum(0) / 3
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_mean_over_images():
    """The gradient of the square is twice the image."""
    shown = images(count=5)
    found = field_of(lambda x: x**2, shown, "sr").contribution
    centre = np.mean([2 * image[N // 2, N // 2, 0] for image in shown], dtype=np.float64)
    np.testing.assert_allclose(found, centre * placed([1]), rtol=1e-6)


def test_gradients_that_are_no_numbers_are_left_out_and_counted():
    flat = np.zeros((N, N, 1), np.float32)
    shown = [*images(), flat]  # the square root of zero has no derivative, times zero it is NaN
    found = field_of(lambda x: (x * x).sqrt(), shown, "sr")
    assert (found.images, found.left_out) == (2, 1)
    np.testing.assert_allclose(found.contribution, placed([1]), rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda x: x.detach(), "expected an output with gradients"),
        (lambda x: x * 0, "found a gradient of zero"),
        (lambda x: (x * 0).sqrt(), "found a gradient of no number"),
    ],
)
def test_outputs_without_gradients_are_refused(network, reason):
    with pytest.raises(UserError, match=reason):
        field_of(network, images(), "sr")


def test_the_area_table_by_hand():
    """A square of 7 x 7 equal pixels: squares of 3, 5 and 7 have 9/49, 25/49 and all of it."""
    table = areas(placed(np.ones(7)))
    assert [area.share for area in table] == list(SHARES)
    assert [area.side for area in table] == [5, 5, 5, 7]  # 9/49 < 0.2 < 0.3 < 0.5 < 25/49
    assert [area.ratio for area in table] == [(side / N) ** 2 for side in (5, 5, 5, 7)]


def test_the_area_table_is_of_logarithms():
    """Contributions of 999 in the middle 3 x 3 and 9 around: 3 against 1 in logarithms."""
    contribution = placed(np.ones(7)) * 9 + placed(np.ones(3)) * 990
    # 3 x 3: 27 of 67, 5 x 5: 43 of 67, 7 x 7: all.  Of the contributions themselves 3 x 3 has 96 %.
    assert [area.side for area in areas(contribution)] == [3, 3, 5, 7]


@pytest.mark.parametrize("side", [12, 13])
def test_squares_lie_within_the_image(side):
    """RepLKNet's loop ends at side // 2 - 1, below the whole image."""
    table = areas(np.ones((side, side)))
    largest = 2 * (side // 2 - 1) + 1
    assert (largest / side) ** 2 < 0.99
    assert table[-1].side is None
    assert table[-1].ratio is None
    for area in table[:-1]:
        least = next(s for s in range(3, side, 2) if s * s > area.share * side * side)
        assert area.side == least


def test_the_pictures_are_those_of_the_public_codes():
    contribution = np.array([[0.0, 15.0], [1.0, 99.0]])
    np.testing.assert_allclose(
        drawn(contribution, "replknet"), [[0, math.log10(16) / 2], [math.log10(2) / 2, 1]]
    )
    fourth = [[0, (15 / 99) ** 0.25], [(1 / 99) ** 0.25, 1]]
    np.testing.assert_allclose(drawn(contribution, "sr"), fourth)


def test_images_are_resized_as_the_conventions_say():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 37, 3), dtype=np.uint8)
    rows, columns = np.arange(20) * 50 // 20, np.arange(20) * 37 // 20
    np.testing.assert_array_equal(resized(pixels, 20, "sr"), pixels[rows[:, None], columns])
    planes = [Image.fromarray(pixels[..., c]).resize((20, 20), 3) for c in range(3)]
    expected = np.stack([np.asarray(plane) for plane in planes], -1)
    np.testing.assert_array_equal(resized(pixels, 20, "replknet"), expected)


def test_several_outputs_have_each_their_own_field():
    stack = nn.Sequential(ones(3), ones(3), ones(3))

    def outputs_of(x):
        found = {}
        for name, layer in stack.named_children():
            x = found[name] = layer(x)
        return {**found, "without a batch": x[0]}

    planes = [torch.from_numpy(image).permute(2, 0, 1)[None] for image in images()]
    found = receptive_fields(outputs_of, planes, "sr")
    assert list(found) == ["0", "1", "2", "without a batch"]
    for times, field in enumerate(found.values(), 1):
        expected = placed(convolved([1, 1, 1], min(times, 3)))
        np.testing.assert_allclose(field.contribution, expected, rtol=1e-6)
