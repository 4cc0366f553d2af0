"""The pictures of local attribution maps and of effective receptive fields."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from esc_arch.analysis import erf_figure, lam_figure
from esc_arch.analysis.erf import ReceptiveField
from esc_arch.analysis.lam import Attributed, Place, Window
from esc_arch.compare.figures import fixed_style
from tests.analysis.small_networks import esc

RNG = np.random.default_rng(0)
HR = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
LR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def texts(figure):
    return [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]


def shown(axes):
    (image,) = axes.get_images()
    return image.get_array()


def test_networks_stand_beside_the_image_four_in_a_row():
    place = Place(3, 5, HR, Window(50, 2, 8))
    maps = [RNG.random((20, 30)) for _ in range(6)]
    attributed = [Attributed(esc(), LR, one, HR) for one in maps]
    with fixed_style():
        figure = lam_figure.draw("a $x_1", place, attributed)
    found = texts(figure)
    assert found.count("HR") == 2
    assert [text.splitlines()[0] for text in found if text != "HR"] == ["small"] * 6
    for one in attributed:
        assert f"small\nDI {one.diffusion_index:.2f}" in found
    first = figure.axes[:5]
    np.testing.assert_array_equal(shown(first[0]), HR)
    np.testing.assert_allclose(shown(first[1]), lam_figure.overlaid(maps[0], LR))
    # Below: the result around the window, of four times its side where the image has it.
    np.testing.assert_array_equal(shown(figure.axes[6]), HR[0:22, 38:60])


def test_a_map_is_red_where_it_is_strong_and_pale_grey_where_it_is_nothing():
    mixed = lam_figure.overlaid(np.array([[0.0, 1.0, 0.25]]), np.full((1, 3, 3), 255, np.uint8))
    np.testing.assert_allclose(mixed[0, 0], 1)
    red = mixed[0, 1]
    assert red[0] > 0.8 > 0.1 > red[1:].max()
    np.testing.assert_allclose(mixed[0, 2], (mixed[0, 0] + red) / 2)  # of its square root


def test_fields_have_their_area_tables():
    fields = {
        f"network {number}": ReceptiveField(np.eye(20) * number + 1, 3, 0) for number in range(1, 7)
    }
    with fixed_style():
        figure = erf_figure.draw(fields, "replknet")
    found = texts(figure)
    assert [text.splitlines()[0] for text in found] == list(fields)
    assert all(len(text.splitlines()) == 5 for text in found)
    assert "99%: more than the largest square" in found[0]
    np.testing.assert_allclose(shown(figure.axes[0]).max(), 1)
