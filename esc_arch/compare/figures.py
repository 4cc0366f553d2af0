"""What the pictures share: colours, markers and lines that also read in grey, and PNG bytes.

Matplotlib is imported where it is used: without it the tables are still written.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from esc_arch.compare.entries import Entry, in_order, place
from esc_arch.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DPI",
    "WIDTH_IN",
    "Look",
    "Margins",
    "fixed_style",
    "looks",
    "new_figure",
    "png",
    "stacked",
]

WIDTH_IN = 6.7  # the text of an A4 page
DPI = 200

# Okabe and Ito's colours, which colour-blind people tell apart, but for yellow: too pale a line.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Numbers without a common divisor: colour, marker and line repeat together only after 252.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1.2, 1, 1.2)))


class Look(NamedTuple):
    """How one entry is drawn, in every picture."""

    colour: str
    marker: str
    line: object


def looks(entries: Iterable[Entry]) -> dict[Entry, Look]:
    """A look for each entry.

    The colour is the network's, the same in every report for those of the published tables;
    other weights of a network take other markers and lines.
    """
    entries = in_order(entries)
    unpublished = place("")
    others = sorted({e.network for e in entries if place(e.network) == unpublished})
    out = {}
    for entry in entries:
        number = place(entry.network)
        if entry.network in others:
            number += others.index(entry.network)
        own = [e for e in entries if e.network == entry.network and e.weights is not None]
        mark = number + (own.index(entry) if entry in own else 0)
        out[entry] = Look(
            _COLOURS[number % len(_COLOURS)],
            _MARKERS[mark % len(_MARKERS)],
            _LINES[mark % len(_LINES)],
        )
    return out


class Margins(NamedTuple):
    """A panel as wide as the picture: the plot's height and the room around it, in inches."""

    above: float
    plot: float
    below: float
    left: float
    right: float


@contextmanager
def fixed_style() -> Iterator[None]:
    """Matplotlib's own defaults inside, whatever the user's matplotlibrc says.

    Raises:
        UserError: when Matplotlib is not installed.
    """
    try:
        from matplotlib import style
    except ImportError:
        raise UserError(
            "expected matplotlib, to draw the pictures of the report; found none. The tables are "
            "written. Install it: pip install matplotlib; then run basicsr compare report again."
        ) from None
    with style.context("default"):
        yield


def new_figure(height_in: float) -> "Figure":
    """An empty figure with a canvas that can tell the extents of text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def stacked(count: int, margins: Margins) -> tuple["Figure", list["Axes"]]:
    """A figure of panels one below the other, and their axes from the top."""
    height = margins.above + margins.plot + margins.below
    figure = new_figure(height * count)
    width = WIDTH_IN - margins.left - margins.right
    axes = []
    for below in reversed(range(count)):
        bottom = below * height + margins.below
        corner_and_size = (
            margins.left / WIDTH_IN,
            bottom / (height * count),
            width / WIDTH_IN,
            margins.plot / (height * count),
        )
        axes.append(figure.add_axes(corner_and_size))
    return figure, axes


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()
