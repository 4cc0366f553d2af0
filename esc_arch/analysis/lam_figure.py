"""The picture of local attribution maps: one image, several networks side by side."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from esc_arch.analysis.lam import Attributed, Place, Window
from esc_arch.compare.figures import WIDTH_IN, new_figure
from esc_arch.errors import escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["draw", "overlaid"]

_COLUMNS = 4  # of networks
_TEXT_IN, _TITLE_IN, _MOST_IN = 0.55, 0.45, 1.4
_RED = np.array([0.84, 0.0, 0.05])


def draw(name: str, place: Place, attributed: Sequence[Attributed]) -> "Figure":
    """The HR image with the window, each network's map on its LR image, and the results around
    the window; inside :func:`esc_arch.compare.figures.fixed_style`.

    Args:
        name: of the image.
        attributed: one at least.
    """
    rows = [attributed[i : i + _COLUMNS] for i in range(0, len(attributed), _COLUMNS)]
    columns = 1 + len(rows[0])
    side_in = min(WIDTH_IN / columns, _MOST_IN)
    figure = new_figure(_TITLE_IN + len(rows) * (2 * side_in + _TEXT_IN))
    height, width = place.pixels.shape[:2]
    window = place.window
    figure.suptitle(
        escaped(
            f"{name}, {width} x {height} pixels at {place.x}, {place.y}: LR pixels that the boxed "
            f"{window.size} x {window.size} result depends on"
        ),
        fontsize=9,
        x=0.01,
        ha="left",
    )
    parts = figure.subfigures(len(rows), squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        _draw_row(part, place, row, columns)
    return figure


def _draw_row(
    part: "SubFigure", place: Place, attributed: Sequence[Attributed], columns: int
) -> None:
    grid = part.subplots(2, columns, squeeze=False)
    window = place.window
    grid[0, 0].imshow(place.pixels, interpolation="antialiased")
    _box(grid[0, 0], window)
    grid[0, 0].set_xlabel("HR", fontsize=7.5)
    part_of_hr, inner = _around(place.pixels, window)
    grid[1, 0].imshow(part_of_hr, interpolation="nearest")
    _box(grid[1, 0], inner)
    for column, one in enumerate(attributed, 1):
        above, below = grid[:, column]
        above.imshow(overlaid(one.attribution, one.lr), interpolation="nearest")
        lines = textwrap.wrap(escaped(one.subject.label), 24)[:3]
        lines.append(f"DI {one.diffusion_index:.2f}")
        above.set_xlabel("\n".join(lines), fontsize=7.5, linespacing=1.1)
        below.imshow(_around(one.result, window)[0], interpolation="nearest")
        _box(below, inner)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)


def overlaid(attribution: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """A map as red on its LR image in pale grey; the square root shows weak values too.

    Args:
        attribution: (h, w), in [0, 1].
        lr: (h, w, 3), uint8.

    Returns:
        (h, w, 3), in [0, 1].
    """
    strength = np.sqrt(attribution)[..., None]
    pale = 0.5 + cv2.cvtColor(lr, cv2.COLOR_RGB2GRAY)[..., None] / 510
    mixed: np.ndarray = strength * _RED + (1 - strength) * pale
    return mixed


def _around(pixels: np.ndarray, window: Window) -> tuple[np.ndarray, Window]:
    """The part of four times the window's side about it, and the window in that."""
    margin = 3 * window.size // 2
    left, top = max(0, window.x - margin), max(0, window.y - margin)
    right, bottom = window.x + window.size + margin, window.y + window.size + margin
    inner = Window(window.x - left, window.y - top, window.size)
    return pixels[top:bottom, left:right], inner


def _box(axes: "Axes", window: Window) -> None:
    from matplotlib.patches import Rectangle

    for colour, line in (("black", 2.4), ("#F0E442", 1.2)):
        corner, side = (window.x - 0.5, window.y - 0.5), window.size
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, lw=line))
