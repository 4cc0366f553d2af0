"""``curves.png``: validation PSNR over the minutes of training, a panel for each scale."""

from typing import TYPE_CHECKING, NamedTuple

from esc_arch.compare import figures
from esc_arch.compare.entries import Entry, entry_of, in_order, is_finite, labels
from esc_arch.compare.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Line", "Panel", "draw", "panels"]

# Names of the lines stand at the right.
_MARGINS = figures.Margins(above=0.4, plot=3.0, below=0.55, left=0.7, right=1.6)


class Line(NamedTuple):
    """One training: minutes since its start, and PSNR in dB."""

    entry: Entry
    iterations: int
    minutes: list[float]
    psnr: list[float]


class Panel(NamedTuple):
    """All trainings of a scale."""

    scale: int
    lines: list[Line]


def panels(results: Results) -> tuple[list[Panel], list[str]]:
    """The panels that the training rows give, and what is left out and why."""
    by_scale: dict[int, dict[Entry, Line]] = {}
    notes = []
    for row in results["training"]:
        points = [
            (minutes, psnr)
            for _, minutes, _, psnr in row.get("curve") or []
            if is_finite(minutes) and is_finite(psnr)
        ]
        if not points:
            notes.append(f"{row['network']} x{row['scale']} is left out: no validation PSNR.")
            continue
        minutes, psnr = map(list, zip(*points, strict=True))
        line = Line(entry_of(row), row["iterations"], minutes, psnr)
        by_scale.setdefault(row["scale"], {})[line.entry] = line
    if not results["training"]:
        notes.append("No network was trained in this comparison.")
    return [
        Panel(scale, [lines[entry] for entry in in_order(lines)])
        for scale, lines in sorted(by_scale.items())
    ], notes


def draw(shown: list[Panel], everyone: list[Entry]) -> "Figure":
    """The picture; inside :func:`figures.fixed_style`.

    Args:
        shown: at least one panel.
        everyone: all entries of the comparison, which decide colours, markers and lines.
    """
    figure, places = figures.stacked(len(shown), _MARGINS)
    for axes, panel in zip(places, shown, strict=True):
        _draw_panel(axes, panel, figures.looks(everyone))
    return figure


def _draw_panel(axes: "Axes", panel: Panel, looks: dict[Entry, figures.Look]) -> None:
    axes.set_title(f"x{panel.scale}: validation PSNR while training", fontsize=10, loc="left")
    axes.set_xlabel("minutes since the start of each training", fontsize=9)
    axes.set_ylabel("validation PSNR in dB", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.88", linewidth=0.6)
    for line in panel.lines:
        look = looks[line.entry]
        axes.plot(
            line.minutes,
            line.psnr,
            color=look.colour,
            linestyle=look.line,
            linewidth=1.4,
            marker=look.marker,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.4,
            # Markers of long curves would run into each other.
            markevery=max(1, len(line.minutes) // 8),
        )
    _label(axes, panel.lines, looks)


def _label(axes: "Axes", lines: list[Line], looks: dict[Entry, figures.Look]) -> None:
    """Names at the right edge, at the height of each line's end or as near as there is room."""
    names = labels(line.entry for line in lines)
    # Matplotlib fits the limits when it draws; places are needed now.
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    texts = [
        axes.text(
            0,
            0,
            names[line.entry].replace(", ", "\n"),
            fontsize=8,
            transform=None,
            verticalalignment="bottom",
            linespacing=1.0,
        )
        for line in lines
    ]
    heights = [text.get_window_extent(renderer).height + 4 for text in texts]
    ends = [axes.transData.transform((line.minutes[-1], line.psnr[-1])) for line in lines]
    bottoms = _spread([y for _, y in ends], heights, frame.y0, frame.y1)
    key = frame.x1 + 24
    for line, text, height, bottom, end in zip(lines, texts, heights, bottoms, ends, strict=True):
        text.set_position((key + 14, bottom + 2))
        look = looks[line.entry]
        joint = axes.transData.inverted().transform([end, (key, bottom + height / 2)])
        axes.plot(*joint.T, color=look.colour, linewidth=0.5, alpha=0.7, clip_on=False)
        axes.plot(*joint[1], color=look.colour, marker=look.marker, markersize=4.5, clip_on=False)


def _spread(wanted: list[float], heights: list[float], low: float, high: float) -> list[float]:
    """Bottoms of labels in the order of their wanted middles, apart and within bounds if they fit.

    Args:
        wanted: the middle that each label should have.
        heights: of the labels, in the same pixels.
        low, high: the bounds.
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], -i))
    bottoms = [0.0] * len(wanted)
    floor = low
    for index in order:
        bottoms[index] = floor = max(floor, wanted[index] - heights[index] / 2)
        floor += heights[index]
    ceiling = high
    for index in reversed(order):
        bottoms[index] = min(bottoms[index], ceiling - heights[index])
        ceiling = bottoms[index]
    return bottoms
