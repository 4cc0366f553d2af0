"""Pictures of analyses: heat maps of pairs of layers, sheets of features.

Everything here runs inside :func:`esc_arch.compare.figures.fixed_style`.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from esc_arch.analysis.features import BRIGHTEST, DARKEST, Features
from esc_arch.analysis.similarity import Similarity
from esc_arch.compare.figures import WIDTH_IN, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_features", "draw_similarities", "short_names"]

_TITLES = {
    "cka": "linear CKA of outputs",
    "cosine": "cosine of outputs",
    "maps": "cosine of mean attention maps",
}
# Colours and the least value; the largest is 1.
_SCALES = {"cka": ("magma", 0.0), "cosine": ("RdBu_r", -1.0), "maps": ("magma", 0.0)}
_ROW_IN = 2.4
_MOST_NAMES = 40
_PAIRS = 4  # of pictures of a layer, in a row of a sheet
_CAPTION_IN = 0.2


def short_names(paths: Sequence[str]) -> list[str]:
    """Paths without the parts that all of them have at the same place."""
    parts = [path.split(".") for path in paths]
    places = range(min(map(len, parts)))
    common = {i for i in places if len({each[i] for each in parts}) == 1}
    return [
        ".".join(part for i, part in enumerate(each) if i not in common) or path
        for each, path in zip(parts, paths, strict=True)
    ]


def draw_similarities(found: Mapping[str, Similarity]) -> "Figure":
    """A row of heat maps for each network.

    Args:
        found: by the networks' labels.
    """
    figure = new_figure(len(found) * _ROW_IN)
    rows = figure.subplots(len(found), len(_TITLES), squeeze=False)
    for row, (label, similarity) in zip(rows, found.items(), strict=True):
        means = similarity.neighbours()
        for axes, (name, matrix) in zip(row, similarity.measures().items(), strict=True):
            # Of attention maps, those layers that have some.
            shown = np.flatnonzero(np.isfinite(matrix.diagonal()))
            if not len(shown):
                axes.set_axis_off()
                axes.text(0.5, 0.5, f"{_TITLES[name]}:\nnone", fontsize=6, ha="center")
                continue
            _heat_map(axes, matrix[np.ix_(shown, shown)], *_SCALES[name])
            axes.set_title(f"{_TITLES[name]}\nmean of neighbours: {means[name]:.2f}", fontsize=6)
            _name(axes, [short_names(similarity.layers)[i] for i in shown])
        row[0].set_ylabel("\n".join(textwrap.wrap(label, 40)), fontsize=7)
    return figure


def _heat_map(axes: "Axes", matrix: np.ndarray, colours: str, least: float) -> None:
    axes.set_facecolor("0.85")  # where there is no value
    drawn = axes.imshow(matrix, cmap=colours, vmin=least, vmax=1, interpolation="nearest")
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.75, aspect=18, pad=0.03)
    bar.ax.tick_params(labelsize=5, length=1.5, width=0.4)


def _name(axes: "Axes", names: Sequence[str]) -> None:
    """Name the layers on both sides, where there is room for some alone those."""
    places = range(0, len(names), -(-len(names) // _MOST_NAMES))
    some = [names[place] for place in places]
    axes.set_xticks(places, some, rotation=90, fontsize=4)
    axes.set_yticks(places, some, fontsize=4)
    axes.tick_params(length=1, width=0.4, pad=1)


def draw_features(label: str, found: Features) -> "Figure":
    """The image and the result, then of each layer the strength and the principal components.

    Args:
        label: of the network.
    """
    height, width = found.image.shape[:2]
    count = 1 + len(found.layers)
    rows = -(-count // _PAIRS)
    tile_in = WIDTH_IN / (2 * _PAIRS)
    figure = new_figure(rows * (tile_in * height / width + _CAPTION_IN) + _CAPTION_IN)
    figure.suptitle(
        f"{label}: mean absolute value, and three principal components as RGB", fontsize=7
    )
    grid = figure.subplots(rows, 2 * _PAIRS, squeeze=False).reshape(-1, 2)
    for pair in grid:
        for axes in pair:
            axes.set_axis_off()
    _show(grid[0, 0], found.image, "image")
    _show(grid[0, 1], found.output, "result")
    names = short_names([one.path for one in found.layers])
    for pair, one, name in zip(grid[1:], found.layers, names, strict=False):
        _show(pair[0], one.strength, name)
        explained = one.statistics["explained"]
        assert isinstance(explained, list)
        _show(pair[1], one.components, f"{100 * sum(explained):.0f}%")
    return figure


def _show(axes: "Axes", pixels: np.ndarray, caption: str) -> None:
    # A pixel or two at the border must not take the contrast of the others.
    low, high = np.percentile(pixels, (DARKEST, BRIGHTEST))
    axes.imshow(pixels, cmap="magma", vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(caption, fontsize=5, pad=2)
