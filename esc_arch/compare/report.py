"""The report of a comparison: ``report.md``, ``results.csv`` and the pictures.

``report.md`` has the rows as Markdown tables beside the published values.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esc_arch.compare import crops, figures, results
from esc_arch.compare.published import PUBLISHED, SETS
from esc_arch.compare.results import KINDS, Results, Row
from esc_arch.compare.series import (
    BICUBIC,
    Series,
    SetMean,
    by_setting,
    describe_setting,
    in_order,
    is_finite,
    place,
    scales,
    series_of,
    set_means,
    trained_here,
)
from esc_arch.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["merge_folders", "write_report"]

_NONE = "–"
FULLY = "published: fully trained"


_COST_NOTE = (
    "Cost: latency is the median of the runs, with the fastest and the slowest in brackets; "
    "`ratio` is to the fastest network of the table. Multiply-adds are counted for an output of "
    "1280 x 720 pixels, whatever the image that was timed. Published latency and memory are of "
    "the authors' GPU, in float32 at that output: to be compared with each other, not with the "
    "measured ones."
)


def write_report(folder: Path) -> list[Path]:
    """Write the tables and pictures of a comparison, from its results.json.

    A picture for which there are no rows any more is removed.  One of images that are not there
    any more stays, and report.md says so.

    Args:
        folder: the comparison's.

    Returns:
        The files that were written.

    Raises:
        UserError: when results.json is damaged or a file cannot be written; when Matplotlib is
            not installed, after the tables are written.
    """
    found = results.read(folder)
    written = [folder / "results.csv"]
    results.write_file(written[0], results.encoded(results.csv_text(found)))
    everything = [series_of(row) for kind in KINDS for row in found[kind]]
    bubbles, of_bubbles = figures.tradeoff_panels(found)
    tiles, of_tiles = crops.crop_panels(found, folder)
    lines, of_lines = figures.curve_panels(found)
    # The panels, what is left out of them, and what draws them.
    pictures: dict[str, tuple[Sequence[object], list[str], Callable[[], Figure]]] = {
        "tradeoff.png": (bubbles, of_bubbles, lambda: figures.draw_tradeoff(bubbles, everything)),
        "crops.png": (tiles, of_tiles, lambda: crops.draw_crops(tiles)),
        "curves.png": (lines, of_lines, lambda: figures.draw_curves(lines, everything)),
    }
    drawn: dict[str, bytes] = {}
    missing = None
    if any(panels for panels, _, _ in pictures.values()):
        try:
            with figures.fixed_style():
                for name, (panels, _, draw) in pictures.items():
                    if panels:
                        drawn[name] = figures.png(draw())
        except UserError as error:
            missing = error
    texts = {}
    for name, (panels, notes, _) in pictures.items():
        path = folder / name
        if name in drawn:
            results.write_file(path, drawn[name])
            written.append(path)
            texts[name] = ["", *notes]
            continue
        # The image files of crops may be gone.
        is_kept = path.exists() and bool(panels or (name == "crops.png" and found["quality"]))
        first = f"`{name}` is not drawn"
        if is_kept:
            first += f"; this one is of an earlier report: ![{name}]({name})"
        else:
            path.unlink(missing_ok=True)
        texts[name] = [f"{first}.", *(["Matplotlib is not installed."] if panels else notes)]
    report = folder / "report.md"
    results.write_file(report, results.encoded(_markdown(folder.resolve().name, found, texts)))
    if missing:
        raise missing
    return [*written, report]


def merge_folders(folders: list[Path], into: Path) -> None:
    """Add the rows of several comparisons to one, whose own rows stay.

    Of rows with the same key, the one of the last folder stays.

    Args:
        folders: each with a results.json.
        into: the comparison's folder, made where it is not there yet.

    Raises:
        UserError: when a folder has no results, or damaged ones.
    """
    several = [results.read(into)]
    for folder in folders:
        if not (folder / results.FILE).is_file():
            raise UserError(
                f"{folder}: expected a comparison's folder, with {results.FILE} in it; found "
                "none. Name a folder that basicsr compare has written."
            )
        several.append(_seen_from(results.read(folder), folder, into))
    results.write(into, results.merge(several))


def _seen_from(found: results.Results, folder: Path, into: Path) -> results.Results:
    """Results whose outputs are named relative to another folder."""
    quality = []
    for row in found["quality"]:
        if row.get("output") is not None:
            path = os.path.relpath((folder / row["output"]).resolve(), into.resolve())
            row = {**row, "output": Path(path).as_posix()}
        quality.append(row)
    return {**found, "quality": quality}


def _markdown(name: str, found: Results, pictures: Mapping[str, Sequence[str]]) -> str:
    """The whole report.

    Args:
        name: of the comparison.
        found: the rows.
        pictures: for each picture's file what to say below it; the file is shown when the first
            line is empty.
    """
    parts = [
        f"# Comparison {_text(name)}",
        "Written by `basicsr compare` from `results.json`, which holds every value. "
        f"{_NONE}: not measured or not published.",
    ]
    if found["cost"]:
        parts.append(_COST_NOTE)
    for scale in scales(found):
        parts += _costs(found, scale)
        parts += _quality(found, scale)
    parts += _training(found["training"])
    parts.append("## Pictures")
    for file, (first, *notes) in pictures.items():
        parts.append(first or f"![{file}]({file})")
        if notes:
            parts.append("\n".join(f"- {_text(note)}" for note in notes))
    parts += _runs(found)
    return "\n\n".join(parts) + "\n"


def _costs(found: Results, scale: int) -> list[str]:
    parts = []
    for setting, rows in by_setting(found["cost"], scale).items():
        parts.append(f"## x{scale}: cost, {_text(describe_setting(setting))}")
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


def _quality(found: Results, scale: int) -> list[str]:
    rows = [row for row in found["quality"] if row["scale"] == scale]
    if not rows:
        return []
    means = set_means(rows)
    measured = {name for of_sets in means.values() for name in of_sets}
    sets = [name for name in SETS if name in measured] + sorted(measured - set(SETS))
    counts = {
        name: max(of_sets[name].images for of_sets in means.values() if name in of_sets)
        for name in sets
    }
    trained = trained_here(found)
    header, lines = ["network", "weights"], []
    for name in sets:
        header += [f"{_text(name)} ({counts[name]})", f"{_text(name)}, {FULLY}"]
    for series in in_order(means):
        line = [_text(series.network), _weights(series, trained.get((series, scale)))]
        for name in sets:
            line += [
                _mean(means[series].get(name), counts[name]),
                _published_quality(series.network, scale, name),
            ]
        lines.append(line)
    note = (
        "PSNR in dB and SSIM: the mean of the images' values, as BasicSR takes it; in brackets "
        "the number of images."
    )
    if any((series, scale) in trained for series in means):
        note += (
            " **Networks marked *trained here* were trained in this comparison only, for the "
            "iterations given; the published values are of fully trained networks. The two "
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


def _weights(series: Series, training: Row | None) -> str:
    if series.weights is None:
        return _NONE if series.network == BICUBIC else "initial, untrained"
    if training is None:
        return _code(series.weights)
    return f"*trained here*, {training['iterations']:,} iterations: {_code(series.weights)}"


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


def _runs(found: Results) -> list[str]:
    header = ["run", "date", "command", "machine", "threads", "versions", "commit", "rows"]
    lines = []
    for index, run in enumerate(found["runs"]):
        counts = {kind: sum(row["run"] == index for row in found[kind]) for kind in KINDS}
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
