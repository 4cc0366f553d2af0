"""``tradeoff.png`` and ``curves.png``, and what is common to all figures: colours, markers, PNG.

``tradeoff.png`` shows PSNR against latency, with the memory as the area of a bubble: one panel for
each scale and each setting (image size, device, dtype, machine) of the costs.  ``curves.png`` shows
validation PSNR over the minutes of training, one panel for each scale.

Matplotlib is imported where it is used: without it the tables are still written.
"""

import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from esc_arch.compare.published import PUBLISHED, SETS
from esc_arch.compare.results import Results, Row
from esc_arch.compare.series import (
    BICUBIC,
    Series,
    by_setting,
    describe_setting,
    in_order,
    is_finite,
    labels,
    scales,
    series_of,
    set_means,
    trained_here,
)
from esc_arch.errors import UserError, escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure

__all__ = [
    "WIDTH_IN",
    "CurvePanel",
    "Line",
    "Point",
    "TradeoffPanel",
    "curve_panels",
    "draw_curves",
    "draw_tradeoff",
    "fixed_style",
    "new_figure",
    "png",
    "tradeoff_panels",
]

WIDTH_IN = 6.7  # the text of an A4 page
_DPI = 200
_PX_PER_PT = _DPI / 72

# One hue for the ESC family; other hues and greys for its rivals.  The hues are Okabe and Ito's,
# which colour-blind people can distinguish, but for yellow: too pale a line.
_FAMILY = ("#6EAEE6", "#1C70BA", "#053661")
_RIVALS = ("#D55E00", "0.25", "#009E73", "#CC79A7", "0.6", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1.2, 1, 1.2)))

# Sets on which networks differ the most come first.
_SETS = ("Urban100", "Set14", "Set5", "B100")
_LEGEND_PT = 8  # size of its text
_LARGEST_PT2 = 1500.0  # area of the largest bubble, in square points
_MARKER_PT2 = 22.0
_GAP_PX = 5.0
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


class _Look(NamedTuple):
    """How a series is drawn, in every figure."""

    colour: str
    marker: str
    line: object


def _looks(series: Iterable[Series]) -> dict[Series, _Look]:
    """A look for each series.

    The colour is the network's, the same in every report for those of the published tables;
    other weights of a network have other markers and lines.
    """
    series = in_order(series)
    published = (name for name, _ in PUBLISHED)
    networks = dict.fromkeys([*published, *(one.network for one in series)])
    family = [name for name in networks if name.startswith("esc")]
    rivals = [name for name in networks if name not in family]
    out = {}
    for one in series:
        names, colours = (family, _FAMILY) if one.network in family else (rivals, _RIVALS)
        number = names.index(one.network)
        own = [other for other in series if other.network == one.network and other.weights]
        mark = number + (own.index(one) if one in own else 0)
        colour = colours[number % len(colours)]
        out[one] = _Look(colour, _MARKERS[mark % len(_MARKERS)], _LINES[mark % len(_LINES)])
    return out


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
    # A dollar in a name would begin a formula.
    with style.context(["default", {"text.parse_math": False}]):
        yield


def new_figure(height_in: float) -> "Figure":
    """An empty figure that gives its axes places without overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height_in), dpi=_DPI, layout="constrained")


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI)
    return out.getvalue()


class Point(NamedTuple):
    """A bubble; ``peak_mb`` is None where it is not known."""

    series: Series
    latency_ms: float
    psnr: float
    peak_mb: float | None


class TradeoffPanel(NamedTuple):
    """
    Attributes:
        title: its lines.
        set: the set of which PSNR is the mean.
        is_published: whether PSNR is the authors', not measured.
    """

    title: list[str]
    set: str
    is_published: bool
    points: list[Point]


def tradeoff_panels(results: Results) -> tuple[list[TradeoffPanel], list[str]]:
    """The panels of the rows, and notes on the rows left out, with the reason.

    The PSNR is measured where the scale has any quality rows, else as published.
    """
    found, notes = [], []
    for scale in scales(results):
        quality = [row for row in results["quality"] if row["scale"] == scale]
        settings = by_setting(results["cost"], scale)
        if quality and not settings:
            notes.append(f"x{scale}: no cost was measured.")
        for setting, rows in settings.items():
            panel, missing = _tradeoff_panel(results, scale, setting, rows, quality)
            found += [panel] if panel else []
            notes += [f"x{scale}, {describe_setting(setting)}: {text}" for text in missing]
    if not scales(results):
        notes.append("There are no rows.")
    return found, notes


_Means = dict[Series, dict[str, tuple[float | None, int]]]


def _tradeoff_panel(
    results: Results, scale: int, setting: tuple[object, ...], rows: list[Row], quality: list[Row]
) -> tuple[TradeoffPanel | None, list[str]]:
    """The means of sets are pairs of PSNR and number of images, 0 where it is published."""
    means: _Means
    if quality:
        means = {
            series: {name: (mean.psnr, mean.images) for name, mean in of_sets.items()}
            for series, of_sets in set_means(quality).items()
            if series.network != BICUBIC
        }
        names, source = labels(means), "measured PSNR"
    else:
        published = {row["network"]: PUBLISHED.get((row["network"], scale)) for row in rows}
        means = {
            Series(network, None): {name: (psnr, 0) for name, psnr in values.psnr.items()}
            for network, values in published.items()
            if values
        }
        # No weights of ours.
        names, source = {series: series.network for series in means}, "published PSNR"
    costs = {row["network"]: row for row in rows if _is_positive(row.get("median_ms"))}
    notes = [
        f"{row['network']} is left out: no latency." for row in rows if row["network"] not in costs
    ]
    known = {series.network for series in means}
    notes += [f"{network} is left out: no {source}." for network in costs if network not in known]
    means = {series: of_sets for series, of_sets in means.items() if series.network in costs}
    chosen = _choose_set(means)
    if chosen is None:
        return None, [*notes, "nothing to draw: no network has both a PSNR and a latency."]
    images = max(of_sets[chosen][1] for of_sets in means.values() if chosen in of_sets)
    points = []
    for series in in_order(means):
        psnr, count = means[series].get(chosen, (None, 0))
        if not is_finite(psnr) or count != images:
            of = f"{count} of {images} images" if is_finite(psnr) else "no finite PSNR"
            notes.append(f"{names[series]} is left out: {of} of {chosen}.")
            continue
        cost = costs[series.network]
        peak_mb = cost["peak_mb"] if _is_positive(cost.get("peak_mb")) else None
        if peak_mb is None:
            notes.append(f"{names[series]} has no bubble: its memory is not known.")
        points.append(Point(series, cost["median_ms"], psnr, peak_mb))
    if quality:
        noun = "image" if images == 1 else "images"
        title = [f"x{scale}: PSNR of {chosen} ({images} {noun}) against latency"]
    else:
        title = [f"x{scale}: PUBLISHED PSNR (the authors', not measured here), measured latency"]
    title += textwrap.wrap(describe_setting(setting), 105)[:2]
    trained = trained_here(results)
    here = [p.series for p in points if (p.series, scale) in trained]
    if here:
        iterations = [trained[series, scale]["iterations"] for series in here]
        span = " to ".join(f"{n:,}" for n in sorted({min(iterations), max(iterations)}))
        title.append(
            f"{len(here)} of {len(points)} trained in this comparison only: {span} iterations"
        )
    return TradeoffPanel(title, chosen, not quality, points), notes


def _is_positive(value: object) -> bool:
    return is_finite(value) and value > 0


def _choose_set(means: _Means) -> str | None:
    """The first set that all networks have, else the one that the most have."""
    with_psnr = [
        name for sets in means.values() for name, (psnr, _) in sets.items() if is_finite(psnr)
    ]
    order = dict.fromkeys([*_SETS, *SETS, *sorted(with_psnr)])
    return max(order, key=with_psnr.count) if with_psnr else None


def draw_tradeoff(shown: list[TradeoffPanel], everything: Iterable[Series]) -> "Figure":
    """The picture; inside :func:`fixed_style`.

    Args:
        shown: at least one panel, each with at least one point.
        everything: all series of the comparison, which decide colours and markers.
    """
    figure = new_figure(4.4 * len(shown))
    looks = _looks(everything)
    places = figure.subplots(len(shown), squeeze=False)[:, 0]
    areas = [_draw_bubbles(axes, one, looks) for axes, one in zip(places, shown, strict=True)]
    # Labels find their places when the axes have theirs, and move them no more.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, panel, of_panel in zip(places, shown, areas, strict=True):
        _label_bubbles(axes, panel, of_panel)
    return figure


def _draw_bubbles(axes: "Axes", panel: TradeoffPanel, looks: Mapping[Series, _Look]) -> list[float]:
    """Draw a panel without its labels; the areas of the bubbles in square points."""
    from matplotlib.colors import to_rgba

    axes.set_title(escaped("\n".join(panel.title), keep="\n"), fontsize=8, loc="left")
    source = "published PSNR" if panel.is_published else "PSNR"
    _name_axes(axes, "latency in ms, median; logarithmic", f"{source} of {panel.set} in dB")
    largest = max((p.peak_mb for p in panel.points if p.peak_mb), default=1.0)
    areas = [_LARGEST_PT2 * (p.peak_mb or 0.0) / largest for p in panel.points]
    # The small above the large.
    order = sorted(range(len(areas)), key=lambda i: -areas[i])
    for level, (point, area) in enumerate((panel.points[i], areas[i]) for i in order):
        look = looks[point.series]
        at = [point.latency_ms], [point.psnr]
        if area:
            fill = to_rgba(look.colour, 0.3)
            axes.scatter(*at, area, facecolor=fill, edgecolor=look.colour, zorder=3 + level)
        axes.scatter(
            *at, _MARKER_PT2, look.colour, marker=look.marker, edgecolor="white", lw=0.5, zorder=50
        )
    _set_limits(axes)
    if any(areas):
        _draw_sizes(axes, largest)
    return areas


def _name_axes(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)


def _set_limits(axes: "Axes") -> None:
    """Room for bubbles and labels on every side, and ticks in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.margins(0.18)
    low, high = axes.get_xlim()
    span = math.log10(high / low)
    steps = (1,) if span > 4 else (1, 2, 5) if span > 1.2 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=100))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _renderer(axes: "Axes") -> "RendererAgg":
    """Measures texts; every figure here is drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    return canvas.get_renderer()


def _label_bubbles(axes: "Axes", panel: TradeoffPanel, areas: Sequence[float]) -> None:
    """The networks' names, each in the first free place of eight directions, at growing distances.

    A line joins a name to its bubble where it is not beside it.
    """
    from matplotlib.transforms import Bbox

    series = [point.series for point in panel.points]
    names = {s: s.network for s in series} if panel.is_published else labels(series)
    frame = axes.get_window_extent().padded(-4)
    centres = [axes.transData.transform((p.latency_ms, p.psnr)) for p in panel.points]
    radii = [math.sqrt(max(area, 4 * _MARKER_PT2 / math.pi)) / 2 * _PX_PER_PT for area in areas]
    bubbles = [
        Bbox.from_extents(x - r, y - r, x + r, y + r)
        for (x, y), r in zip(centres, radii, strict=True)
    ]
    placed: list[Bbox] = []
    for index, ((x, y), radius) in enumerate(zip(centres, radii, strict=True)):
        text = axes.text(0, 0, names[series[index]], fontsize=8.5, transform=None, zorder=60)
        extent = text.get_window_extent()
        others = [*bubbles[:index], *bubbles[index + 1 :], *placed]
        box = None
        for step in range(60):
            reach = radius + _GAP_PX + step * extent.height / 2
            for right, up in _DIRECTIONS:
                left = x + right * reach + (right - 1) * extent.width / 2
                bottom = y + up * reach + (up - 1) * extent.height / 2
                place = Bbox.from_bounds(left, bottom, extent.width, extent.height)
                is_inside = frame.contains(*place.min) and frame.contains(*place.max)
                if is_inside and not place.padded(_GAP_PX - 1).count_overlaps(others):
                    box = place
                    break
            if box is not None:
                break
        else:
            box = Bbox.from_bounds(x, y, extent.width, extent.height)  # no place is free
        placed.append(box)
        text.set_position((box.x0 - extent.x0, box.y0 - extent.y0))
        near_x, near_y = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
        if math.hypot(x - near_x, y - near_y) > radius + 4 * _PX_PER_PT:
            ends = axes.transData.inverted().transform([(x, y), (near_x, near_y)])
            axes.plot(*ends.T, color="0.35", linewidth=0.6, zorder=49)


def _draw_sizes(axes: "Axes", largest: float) -> None:
    """A legend of bubbles of round sizes, to read the memory by."""
    from matplotlib.lines import Line2D

    sizes = []
    for part in (1.0, 0.3, 0.1):
        decade = 10.0 ** math.floor(math.log10(largest * part))
        sizes.append(max(step * decade for step in (1, 2, 5) if step * decade <= largest * part))
    bubbles = [
        Line2D(
            *([], []),
            linestyle="",
            marker="o",
            markersize=math.sqrt(_LARGEST_PT2 * size / largest),
            markerfacecolor="0.88",
            markeredgecolor="0.3",
            label=f"{size:g}",
        )
        for size in sorted(set(sizes))  # a large one at the top would lie on the title
    ]
    room = {"handlelength": bubbles[-1].get_markersize() / _LEGEND_PT, "labelspacing": 3.2}
    _add_legend(axes, handles=bubbles, title="area: peak\nmemory, MB", **room)


def _add_legend(axes: "Axes", **options: Any) -> None:
    """A legend at the right of the axes."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
    axes.legend(fontsize=_LEGEND_PT, title_fontsize=_LEGEND_PT, **place, **options)


class Line(NamedTuple):
    """One training: minutes since its start, and PSNR in dB."""

    series: Series
    minutes: list[float]
    psnr: list[float]


class CurvePanel(NamedTuple):
    """All trainings of a scale."""

    scale: int
    lines: list[Line]


def curve_panels(results: Results) -> tuple[list[CurvePanel], list[str]]:
    """The panels of the training rows, and notes on the rows left out, with the reason."""
    by_scale: dict[int, dict[Series, Line]] = {}
    notes = [] if results["training"] else ["No network was trained in this comparison."]
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
        by_scale.setdefault(row["scale"], {})[series_of(row)] = Line(series_of(row), minutes, psnr)
    return [
        CurvePanel(scale, [lines[series] for series in in_order(lines)])
        for scale, lines in sorted(by_scale.items())
    ], notes


def draw_curves(shown: list[CurvePanel], everything: Iterable[Series]) -> "Figure":
    """The picture; inside :func:`fixed_style`.

    Args:
        shown: at least one panel.
        everything: all series of the comparison, which decide colours, markers and lines.
    """
    figure = new_figure(3.9 * len(shown))
    looks = _looks(everything)
    places = figure.subplots(len(shown), squeeze=False)[:, 0]
    for axes, panel in zip(places, shown, strict=True):
        axes.set_title(f"x{panel.scale}: validation PSNR while training", fontsize=10, loc="left")
        _name_axes(axes, "minutes since the start of each training", "validation PSNR in dB")
        names = labels(line.series for line in panel.lines)
        for line in panel.lines:
            look = looks[line.series]
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
                label=names[line.series].replace(", ", "\n"),
            )
        # In the order in which the curves end.
        best_first = sorted(axes.lines, key=lambda curve: -curve.get_ydata()[-1])
        _add_legend(axes, handles=best_first, handlelength=4)
    return figure
