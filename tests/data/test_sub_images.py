"""Windows of large images."""

import numpy as np
import pytest

from esc_arch.data.sub_images import Grid, grid, sub_image_name, windows
from esc_arch.errors import UserError
from esc_arch.imaging.imresize import imresize


def starts_by_hand(length: int, size: int, step: int, thresh: int) -> list[int]:
    """BasicSR's rule in words: step while a window fits; one at the edge if much is left."""
    starts, start = [], 0
    while start + size <= length:
        starts.append(start)
        start += step
    if length - (starts[-1] + size) > thresh:
        starts.append(length - size)
    return starts


@pytest.mark.parametrize("thresh", [0, 12, 40])
@pytest.mark.parametrize(("size", "step"), [(48, 24), (48, 48), (60, 36), (24, 72)])
def test_positions_are_basicsrs_for_sides_that_are_multiples(size, step, thresh):
    for height, width in [(60, 60), (72, 132), (240, 204), (96, 480)]:
        tops = starts_by_hand(height, size, step, thresh)
        lefts = starts_by_hand(width, size, step, thresh)
        found = windows(height, width, Grid(size, step, thresh, 12))
        assert found == [(top, left, size, size) for top in tops for left in lefts]


@pytest.mark.parametrize("scales", [(2,), (2, 3, 4), (4, 8), ()])
def test_windows_lie_inside_and_meet_the_pixels_of_every_scale(scales):
    made = grid(48, 24, 0, scales)
    for height in (13, 47, 48, 49, 71, 100, 131):
        for width in (24, 50, 95, 97):
            if min(height, width) < made.multiple:
                continue
            found = windows(height, width, made)
            assert len(set(found)) == len(found)
            for window in found:
                for scale in (1, *scales):
                    assert all(side % scale == 0 for side in window)
                    # In the LR image, which is cut to a multiple of its own scale alone.
                    assert window.top // scale + window.height // scale <= height // scale
                    assert window.left // scale + window.width // scale <= width // scale
            covered = np.zeros((height, width), bool)
            for top, left, h, w in found:
                covered[top : top + h, left : left + w] = True
            reached = [side - side % made.multiple for side in (height, width)]
            assert covered[: reached[0], : reached[1]].all()


def test_cut_takes_the_same_place_at_every_scale():
    # Each HR pixel tells its place in units of 12, so it is the same at every scale.
    rows, columns = np.mgrid[:60, :96] // 12
    image = (rows * 16 + columns).astype(np.uint8)
    for window in windows(60, 96, grid(24, 12, 0, (2, 3, 4))):
        hr = window.cut(image, 1)
        assert hr.shape == (24, 24) and hr.flags.c_contiguous
        for scale in (2, 3, 4):
            small = image[scale // 2 :: scale, scale // 2 :: scale]
            np.testing.assert_array_equal(
                window.cut(small, scale), hr[scale // 2 :: scale, scale // 2 :: scale]
            )
            whole = imresize(image, 1 / scale)
            top, left = window.top // scale, window.left // scale
            np.testing.assert_array_equal(
                window.cut(whole, scale), whole[top : top + 24 // scale, left : left + 24 // scale]
            )


def test_short_sides_give_windows_as_long_as_the_side():
    assert windows(30, 100, Grid(48, 24, 0, 12)) == [
        (0, 0, 24, 48),
        (0, 24, 24, 48),
        (0, 48, 24, 48),
    ]


def test_names_count_from_1_and_grow_past_999():
    assert [sub_image_name("a", i) for i in (1, 42, 999, 1000)] == [
        "a_s001",
        "a_s042",
        "a_s999",
        "a_s1000",
    ]


@pytest.mark.parametrize(
    ("size", "step", "scales", "says"),
    [
        (100, 50, (2, 3, 4), "--sub-image.*of 12, so.*found 100.*96 or 108"),
        (96, 50, (2, 3, 4), "--step.*found 50.*48 or 60"),
        (36, None, (2, 3, 4), "--step.*found 18 \\(half of --sub-image\\)"),
        (0, 12, (2,), "--sub-image.*found 0"),
        (-12, 12, (), "--sub-image.*found -12"),
        (12, 0, (), "--step.*found 0"),
    ],
)
def test_sizes_that_the_scales_do_not_allow(size, step, scales, says):
    with pytest.raises(UserError, match=says):
        grid(size, step, 0, scales)
    with pytest.raises(UserError, match="--thresh"):
        grid(48, 24, -1, (2,))
