"""The picture of effective receptive fields: networks or layers side by side, with their areas."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from esc_arch.analysis.erf import ReceptiveField, areas, drawn
from esc_arch.compare.figures import WIDTH_IN, new_figure
from esc_arch.errors import escaped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TITLES", "draw"]

TITLES = {
    "sr": "effective receptive fields by MambaIR's convention, drawn as g^0.25 / max",
    "replknet": "effective receptive fields by RepLKNet's convention, drawn as log10(g + 1) / max",
}
_COLUMNS = 4
_LINE_IN, _TITLE_IN, _MOST_IN = 0.125, 0.4, 1.9


def draw(found: Mapping[str, ReceptiveField], convention: str) -> "Figure":
    """A panel for each field, with RepLKNet's area table below it; inside
    :func:`esc_arch.compare.figures.fixed_style`.

    Args:
        found: one at least, by the label of its network, or of network and layer.
        convention: see :data:`esc_arch.analysis.erf.CONVENTIONS`.
    """
    columns = min(len(found), _COLUMNS)
    rows = -(-len(found) // columns)
    side_in = min(WIDTH_IN / columns, _MOST_IN)
    texts = [_lines(label, field) for label, field in found.items()]
    text_in = _LINE_IN * (1 + max(map(len, texts)))
    figure = new_figure(_TITLE_IN + rows * (side_in + text_in))
    figure.suptitle(TITLES[convention], fontsize=9, x=0.01, ha="left")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, field, lines in zip(places, found.values(), texts, strict=False):
        shown = drawn(field.contribution, convention)
        axes.imshow(shown, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xlabel("\n".join(lines), fontsize=7.5, linespacing=1.1)
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def _lines(label: str, field: ReceptiveField) -> list[str]:
    table = [f"{area.share:.0%}: {area}" for area in areas(field.contribution)]
    return textwrap.wrap(escaped(label), 30)[:3] + table
