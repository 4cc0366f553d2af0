"""``report.md``: the rows as Markdown tables beside the published values."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from esc_arch.compare.entries import (
    BICUBIC,
    Entry,
    SetMean,
    in_order,
    is_finite,
    place,
    scales,
    set_means,
    trained_here,
)
from esc_arch.compare.published import PUBLISHED, SETS
from esc_arch.compare.results import KINDS, Results, Row
from esc_arch.compare.tradeoff import describe, setting_of

__all__ = ["markdown"]

_NONE = "–"
FULLY = "published: fully trained"


_COST_NOTE = (
    "Cost: latency is the median of the runs, with the fastest and the slowest in brackets; "
    "`ratio` is to the fastest network of the table. Multiply-adds are counted for an output of "
    "1280 x 720 pixels, whatever the image that was timed. Published latency and memory are of "
    "the authors' GPU, in float32 at that output: to be compared with each other, not with the "
    "measured ones."
)


def markdown(name: str, results: Results, pictures: Mapping[str, Sequence[str]]) -> str:
    """The whole report.

    Args:
        name: of the comparison.
        results: what was found.
        pictures: for each picture's file what to say below it; the file is shown when the first
            line is empty.
    """
    parts = [
        f"# Comparison {_text(name)}",
        "Written by `basicsr compare` from `results.json`, which holds every value. "
        f"{_NONE}: not measured or not published.",
    ]
    if results["cost"]:
        parts.append(_COST_NOTE)
    for scale in scales(results):
        parts += _costs(results, scale)
        parts += _quality(results, scale)
    parts += _training(results["training"])
    parts.append("## Pictures")
    for file, (first, *notes) in pictures.items():
        parts.append(first or f"![{file}]({file})")
        if notes:
            parts.append("\n".join(f"- {_text(note)}" for note in notes))
    parts += _runs(results)
    return "\n\n".join(parts) + "\n"


def _costs(results: Results, scale: int) -> list[str]:
    settings: dict[tuple, list[Row]] = {}
    for row in results["cost"]:
        if row["scale"] == scale:
            settings.setdefault(setting_of(row), []).append(row)
    parts = []
    for setting, rows in settings.items():
        parts.append(f"## x{scale}: cost, {_text(describe(setting))}")
        parts.append(_cost_table(rows))
    return parts


def _cost_table(rows: list[Row]) -> str:
    rows = sorted(rows, key=lambda row: place(row["network"]))
    fastest = min(
        (row["median_ms"] for row in rows if is_finite(row.get("median_ms"))), default=None
    )
    header = [
        "network",
        "parameters, K",
        "published",
        "multiply-adds, G",
        "published",
        "latency, ms",
        "ratio",
        "peak memory, MB",
        "published latency, ms (authors' GPU)",
        "published memory, MB (authors' GPU)",
    ]
    has_errors = any(row.get("error") for row in rows)
    lines = []
    for row in rows:
        published = PUBLISHED.get((row["network"], row["scale"]))
        median = row.get("median_ms")
        ratio = median / fastest if is_finite(median) and fastest else None
        lines.append(
            [
                _text(row["network"]),
                _number(row.get("parameters"), lambda value: f"{value / 1e3:.0f}"),
                str(published.parameters_k) if published else _NONE,
                _number(row.get("multiply_adds"), lambda value: f"{value / 1e9:.1f}"),
                f"{published.multiply_adds_g:.1f}" if published else _NONE,
                _latency(row),
                _number(ratio, lambda value: f"{value:.2f}"),
                _number(row.get("peak_mb"), _rounded),
                f"{published.latency_ms:.1f}" if published else _NONE,
                f"{published.memory_mb:.0f}" if published else _NONE,
            ]
        )
        if has_errors:
            lines[-1].append(_code(row["error"]) if row.get("error") else "")
    return _table(header + ["error"] * has_errors, lines, left=(0, 10))


def _latency(row: Row) -> str:
    median, fastest, slowest = (
        _number(row.get(key), _rounded) for key in ("median_ms", "fastest_ms", "slowest_ms")
    )
    return median if fastest == slowest == _NONE else f"{median} [{fastest}-{slowest}]"


def _rounded(value: float) -> str:
    """At least three digits that count."""
    return f"{value:.{1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3}f}"


def _number(value: float | None, form: Callable[[float], str]) -> str:
    if value is None:
        return _NONE
    return form(value) if is_finite(value) else f"{value}"  # nan, inf


def _quality(results: Results, scale: int) -> list[str]:
    rows = [row for row in results["quality"] if row["scale"] == scale]
    if not rows:
        return []
    means = set_means(rows)
    measured = {name for of_sets in means.values() for name in of_sets}
    sets = [name for name in SETS if name in measured] + sorted(measured - set(SETS))
    counts = {
        name: max(of_sets[name].images for of_sets in means.values() if name in of_sets)
        for name in sets
    }
    trained = trained_here(results)
    header, lines = ["network", "weights"], []
    for name in sets:
        header += [f"{_text(name)} ({counts[name]})", f"{_text(name)}, {FULLY}"]
    for entry in in_order(means):
        line = [_text(entry.network), _weights(entry, trained.get((entry, scale)))]
        for name in sets:
            line += [
                _mean(means[entry].get(name), counts[name]),
                _published_quality(entry.network, scale, name),
            ]
        lines.append(line)
    note = (
        "PSNR in dB and SSIM: the mean of the images' values, as BasicSR takes it; in brackets "
        "the number of images."
    )
    if any((entry, scale) in trained for entry in means):
        note += (
            " **Networks marked *trained here* were trained in this comparison only, for the "
            "iterations told; the published values are of fully trained networks. The two "
            "cannot be compared.**"
        )
    return [f"## x{scale}: quality, PSNR / SSIM", _table(header, lines, left=(0, 1)), note]


def _mean(mean: SetMean | None, images: int) -> str:
    if mean is None:
        return _NONE
    psnr = _number(mean.psnr, lambda value: f"{value:.2f}")
    ssim = _number(mean.ssim, lambda value: f"{value:.4f}")
    fewer = "" if mean.images == images else f" (only {mean.images} of {images} images)"
    return f"{psnr} / {ssim}{fewer}"


def _published_quality(network: str, scale: int, name: str) -> str:
    published = PUBLISHED.get((network, scale))
    if published is None or name not in published.psnr:
        return _NONE
    ssim = published.ssim.get(name)
    return f"{published.psnr[name]:.2f} / {_NONE if ssim is None else f'{ssim:.4f}'}"


def _weights(entry: Entry, training: Row | None) -> str:
    if entry.weights is None:
        return _NONE if entry.network == BICUBIC else "initial, untrained"
    if training is None:
        return _code(entry.weights)
    return f"*trained here*, {training['iterations']:,} iterations: {_code(entry.weights)}"


def _training(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    header = ["network", "scale", "iterations", "minutes", "s/iteration", "last validation PSNR"]
    header += ["option file", "weights"]
    lines = []
    for row in sorted(rows, key=lambda row: (row["scale"], place(row["network"]))):
        minutes, iterations = row.get("minutes"), row["iterations"]
        pace = 60 * minutes / iterations if is_finite(minutes) and iterations else None
        validated = [psnr for *_, psnr in row.get("curve") or [] if psnr is not None]
        lines.append(
            [
                _text(row["network"]),
                f"x{row['scale']}",
                f"{iterations:,}",
                _number(minutes, lambda value: f"{value:.1f}"),
                _number(pace, _rounded),
                _number(validated[-1] if validated else None, lambda value: f"{value:.2f}"),
                _code(row["option"]) if row.get("option") else _NONE,
                _code(row["weights"]) if row.get("weights") else _NONE,
            ]
        )
    note = "Minutes and s/iteration include validation."
    return ["## Training", _table(header, lines, left=(0, 6, 7)), note]


def _runs(results: Results) -> list[str]:
    header = ["run", "date", "command", "machine", "threads", "versions", "commit", "rows"]
    lines = []
    for index, run in enumerate(results["runs"]):
        counts = {kind: sum(row["run"] == index for row in results[kind]) for kind in KINDS}
        versions = run.get("versions") or {}
        lines.append(
            [
                str(index + 1),
                _text(run.get("date", _NONE)),
                _code(run["command"]) if run.get("command") else _NONE,
                _text(run.get("machine", _NONE)),
                _text(run.get("threads", _NONE)),
                _text(", ".join(f"{what} {which}" for what, which in versions.items()) or _NONE),
                _text(run.get("commit", _NONE)),
                ", ".join(f"{count} {kind}" for kind, count in counts.items() if count),
            ]
        )
    if not lines:
        return ["## How it was run", "There are no runs yet."]
    return ["## How it was run", _table(header, lines, left=range(len(header)))]


def _table(header: list[str], lines: list[list[str]], left: Iterable[int]) -> str:
    rules = [":--" if column in left else "--:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rules, *lines])


def _text(value: object) -> str:
    """Text as it is, in a table's cell too."""
    return re.sub(r"([\\|*`<\[\]])", r"\\\1", " ".join(str(value).split()))


def _code(value: str) -> str:
    """A path, a command or a message as it is, in a table's cell too."""
    text = " ".join(value.split()).replace("|", r"\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"
