"""``tradeoff.png``: PSNR against latency, with the memory as the area of a bubble.

One panel for each scale and each setting (image size, device, dtype, machine) of the costs.
"""

import math
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from esc_arch.compare import figures
from esc_arch.compare.entries import (
    BICUBIC,
    Entry,
    in_order,
    is_finite,
    labels,
    scales,
    set_means,
    trained_here,
)
from esc_arch.compare.label_places import Bubble, place_labels
from esc_arch.compare.published import PUBLISHED, SETS
from esc_arch.compare.results import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Panel", "Point", "draw", "panels"]

# Sets on which networks differ the most come first.
_SETS = ("Urban100", "Set14", "Set5", "B100")

# What the areas of the bubbles mean stands at the right.
_MARGINS = figures.Margins(above=0.72, plot=3.2, below=0.55, left=0.7, right=1.05)
_LARGEST_PT2 = 1500.0  # the area of the largest bubble, in square points
_LABEL_PT = 8.5


class Point(NamedTuple):
    """A bubble; ``peak_mb`` is None where it is not known."""

    entry: Entry
    latency_ms: float
    psnr: float
    peak_mb: float | None


class Panel(NamedTuple):
    """What one panel shows.

    Attributes:
        title: its lines.
        set: the set of which PSNR is the mean.
        is_published: whether PSNR is the authors', not measured.
    """

    title: list[str]
    set: str
    is_published: bool
    points: list[Point]


def panels(results: Results) -> tuple[list[Panel], list[str]]:
    """The panels that the rows give, and what is left out and why.

    The PSNR is measured where the scale has any quality rows, else as published.
    """
    found, notes = [], []
    for scale in scales(results):
        quality = [row for row in results["quality"] if row["scale"] == scale]
        settings: dict[tuple, list[Row]] = {}
        for row in results["cost"]:
            if row["scale"] == scale:
                settings.setdefault(setting_of(row), []).append(row)
        if quality and not settings:
            notes.append(f"x{scale}: no cost was measured.")
        for setting, rows in settings.items():
            panel, missing = _panel(results, scale, setting, rows, quality)
            found += [panel] if panel else []
            notes += [f"x{scale}, {describe(setting)}: {text}" for text in missing]
    if not scales(results):
        notes.append("There are no rows.")
    return found, notes


def setting_of(row: Row) -> tuple:
    """What must be equal for latencies to be compared."""
    return tuple(row.get(key) for key in ("width", "height", "device", "dtype", "machine"))


def describe(setting: tuple) -> str:
    """A setting in words."""
    width, height, device, dtype, machine = setting
    return f"LR image {width} x {height}, {device}, {dtype}, {machine}"


def _panel(
    results: Results, scale: int, setting: tuple, rows: list[Row], quality: list[Row]
) -> tuple[Panel | None, list[str]]:
    means = {
        entry: {name: (mean.psnr, mean.images) for name, mean in of_sets.items()}
        for entry, of_sets in set_means(quality).items()
        if entry.network != BICUBIC
    }
    if not quality:
        means = {
            Entry(row["network"], None): {
                name: (psnr, 0) for name, psnr in PUBLISHED[row["network"], scale].psnr.items()
            }
            for row in rows
            if (row["network"], scale) in PUBLISHED
        }
    costs = {row["network"]: row for row in rows if _is_positive(row.get("median_ms"))}
    notes = [
        f"{row['network']} is left out: no latency." for row in rows if row["network"] not in costs
    ]
    for network in costs:
        if all(entry.network != network for entry in means):
            what = "published PSNR" if not quality else "measured PSNR"
            notes.append(f"{network} is left out: no {what}.")
    means = {entry: of_sets for entry, of_sets in means.items() if entry.network in costs}
    chosen = _choose_set(means)
    if chosen is None:
        return None, [*notes, "nothing to draw: no network has both a PSNR and a latency."]
    values = {entry: of_sets[chosen] for entry, of_sets in means.items() if chosen in of_sets}
    images = max(count for _, count in values.values())
    names = labels(means)
    points = []
    for entry in in_order(means):
        psnr, count = values.get(entry, (None, 0))
        if not is_finite(psnr) or count != images:
            of = f"{count} of {images} images" if is_finite(psnr) else "no finite PSNR"
            notes.append(f"{_name(names, entry, not quality)} is left out: {of} of {chosen}.")
            continue
        peak_mb = costs[entry.network].get("peak_mb")
        points.append(
            Point(
                entry,
                costs[entry.network]["median_ms"],
                psnr,
                peak_mb if _is_positive(peak_mb) else None,
            )
        )
    notes += [
        f"{_name(names, point.entry, not quality)} has no bubble: its memory is not known."
        for point in points
        if point.peak_mb is None
    ]
    return Panel(
        _title(results, scale, setting, chosen, images, points, not quality),
        chosen,
        not quality,
        points,
    ), notes


def _name(names: dict[Entry, str], entry: Entry, is_published: bool) -> str:
    """A label; a published PSNR has no weights of ours to speak of."""
    return entry.network if is_published else names[entry]


def _is_positive(value: object) -> bool:
    return is_finite(value) and value > 0


def _choose_set(means: dict[Entry, dict[str, tuple[float | None, int]]]) -> str | None:
    """The first set that all networks have, else the one that the most have."""
    counts: dict[str, int] = {}
    for of_sets in means.values():
        for name, (psnr, _) in of_sets.items():
            if is_finite(psnr):
                counts[name] = counts.get(name, 0) + 1
    others = [name for name in SETS if name not in _SETS]
    order = [*_SETS, *others, *sorted(set(counts) - set(SETS))]
    return max(order, key=lambda name: counts.get(name, 0)) if counts else None


def _title(
    results: Results,
    scale: int,
    setting: tuple,
    chosen: str,
    images: int,
    points: list[Point],
    is_published: bool,
) -> list[str]:
    if is_published:
        first = f"x{scale}: PUBLISHED PSNR (the authors', not measured here), measured latency"
    else:
        count = f"{images} image" + ("s" if images != 1 else "")
        first = f"x{scale}: PSNR of {chosen} ({count}) against latency"
    lines = [first, *textwrap.wrap(describe(setting), 105)[:2]]
    trained = trained_here(results)
    iterations = [
        trained[point.entry, scale]["iterations"]
        for point in points
        if (point.entry, scale) in trained
    ]
    if iterations and not is_published:
        lines.append(
            f"{len(iterations)} of {len(points)} trained in this comparison only: "
            f"{_span(iterations)} iterations"
        )
    return lines


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def draw(shown: list[Panel], everyone: list[Entry]) -> "Figure":
    """The picture; inside :func:`figures.fixed_style`.

    Args:
        shown: at least one panel, each with at least one point.
        everyone: all entries of the comparison, which decide colours and markers.
    """
    figure, places = figures.stacked(len(shown), _MARGINS)
    for axes, panel in zip(places, shown, strict=True):
        _draw_panel(axes, panel, figures.looks(everyone))
    return figure


def _draw_panel(axes: "Axes", panel: Panel, looks: dict[Entry, figures.Look]) -> None:
    axes.set_title(panel.title[0], fontsize=10, loc="left", pad=5 + 10 * len(panel.title[1:]))
    for index, line in enumerate(reversed(panel.title[1:])):
        axes.annotate(
            line,
            (0, 1),
            (0, 4 + 10 * index),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7.5,
        )
    axes.set_xscale("log")
    _set_limits(axes, panel.points)
    axes.set_xlabel("latency in ms, median; logarithmic", fontsize=9)
    source = "published PSNR" if panel.is_published else "PSNR"
    axes.set_ylabel(f"{source} of {panel.set} in dB", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    largest = max((p.peak_mb for p in panel.points if p.peak_mb), default=0.0)
    # The small above the large.
    for level, point in enumerate(sorted(panel.points, key=lambda p: -(p.peak_mb or 0.0))):
        look = looks[point.entry]
        at = [point.latency_ms], [point.psnr]
        if point.peak_mb:
            area = _LARGEST_PT2 * point.peak_mb / largest
            axes.scatter(
                *at, s=area, facecolor=look.colour, alpha=0.3, linewidth=0, zorder=3 + level
            )
            axes.scatter(*at, s=area, facecolor="none", edgecolor=look.colour, zorder=3 + level)
        axes.scatter(
            *at,
            s=22,
            marker=look.marker,
            facecolor=look.colour,
            edgecolor="white",
            linewidth=0.5,
            zorder=50,
        )
    _label(axes, panel, largest)
    if largest:
        _draw_sizes(axes, largest)


def _set_limits(axes: "Axes", points: list[Point]) -> None:
    """Room for bubbles and labels on every side, and ticks in plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    logs = [math.log10(point.latency_ms) for point in points]
    psnr = [point.psnr for point in points]
    for low, high, least, set_limits in (
        (min(logs), max(logs), 0.3, lambda a, b: axes.set_xlim(10**a, 10**b)),
        (min(psnr), max(psnr), 0.2, axes.set_ylim),
    ):
        span = max(high - low, least)
        middle = (low + high) / 2
        set_limits(middle - 0.68 * span, middle + 0.68 * span)
    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    steps = (1,) if span > 4 else (1, 2, 5) if span > 1.2 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _label(axes: "Axes", panel: Panel, largest: float) -> None:
    """The networks' names at their bubbles, with a line to those that stand away."""
    names = labels(point.entry for point in panel.points)
    renderer = axes.figure.canvas.get_renderer()
    per_point = axes.figure.dpi / 72
    bubbles = []
    texts = []
    for point in panel.points:
        name = _name(names, point.entry, panel.is_published)
        text = axes.text(0, 0, name, fontsize=_LABEL_PT, transform=None, zorder=60)
        extent = text.get_window_extent(renderer)
        area = _LARGEST_PT2 * point.peak_mb / largest if point.peak_mb else 22
        x, y = axes.transData.transform((point.latency_ms, point.psnr))
        radius = max(math.sqrt(area) / 2 * per_point, 4 * per_point)
        bubbles.append(Bubble(x, y, radius, extent.width, extent.height))
        texts.append(text)
    frame = axes.get_window_extent(renderer)
    boxes = place_labels(bubbles, (frame.x0 + 4, frame.y0 + 4, frame.x1 - 4, frame.y1 - 4))
    for bubble, text, (left, bottom, right, top) in zip(bubbles, texts, boxes, strict=True):
        extent = text.get_window_extent(renderer)
        text.set_position((left - extent.x0, bottom - extent.y0))
        x, y = min(max(bubble.x, left), right), min(max(bubble.y, bottom), top)
        if math.hypot(bubble.x - x, bubble.y - y) > bubble.radius + 4 * per_point:
            ends = axes.transData.inverted().transform([(bubble.x, bubble.y), (x, y)])
            axes.plot(*ends.T, color="0.35", linewidth=0.6, zorder=49)


def _draw_sizes(axes: "Axes", largest: float) -> None:
    """Bubbles of round sizes beside the panel, to read the memory by."""
    from matplotlib.transforms import IdentityTransform

    sizes = []
    for part in (1.0, 0.3, 0.1):
        decade = 10.0 ** math.floor(math.log10(largest * part))
        sizes.append(max(step * decade for step in (1, 2, 5) if step * decade <= largest * part))
    per_point = axes.figure.dpi / 72
    frame = axes.get_window_extent()
    x, y = frame.x1 + 24 * per_point, frame.y1
    axes.text(
        frame.x1 + 6 * per_point,
        y,
        "area: peak\nmemory, MB",
        fontsize=7.5,
        transform=None,
        verticalalignment="top",
    )
    y -= 26 * per_point
    for size in dict.fromkeys(sizes):
        area = _LARGEST_PT2 * size / largest
        radius = math.sqrt(area) / 2 * per_point
        y -= radius
        axes.scatter(
            [x],
            [y],
            s=area,
            facecolor="0.88",
            edgecolor="0.3",
            transform=IdentityTransform(),
            clip_on=False,
        )
        axes.text(
            x + 24 * per_point,
            y,
            f"{size:g}",
            fontsize=7.5,
            transform=None,
            verticalalignment="center",
        )
        y -= radius + 6 * per_point
