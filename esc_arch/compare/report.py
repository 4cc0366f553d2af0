"""The report of a comparison: ``report.md``, ``results.csv`` and the pictures."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from esc_arch.compare import crops, curves, figures, results, tradeoff
from esc_arch.compare.entries import entry_of
from esc_arch.compare.report_tables import markdown
from esc_arch.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["merge_folders", "write_report"]


class _Picture(NamedTuple):
    """A picture that can be drawn, or not.

    Attributes:
        draw: None where nothing can be drawn.
        notes: what is left out of it, or why there is nothing to draw.
        needs_images: whether it shows image files, which may be gone later.
    """

    draw: "Callable[[], Figure] | None"
    notes: list[str]
    needs_images: bool = False


def write_report(folder: Path) -> list[Path]:
    """Write the tables and pictures of a comparison anew, from its results.json.

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
    results.write_file(written[0], results.csv_text(found).encode())
    pictures = _pictures(found, folder)
    drawn: dict[str, bytes] = {}
    missing = None
    if any(picture.draw for picture in pictures.values()):
        try:
            with figures.fixed_style():
                for name, picture in pictures.items():
                    if picture.draw:
                        drawn[name] = figures.png(picture.draw())
        except UserError as error:
            missing = error
    texts = {}
    for name, picture in pictures.items():
        path = folder / name
        if name in drawn:
            results.write_file(path, drawn[name])
            written.append(path)
            texts[name] = ["", *picture.notes]
            continue
        is_kept = path.exists() and (picture.draw is not None or picture.needs_images)
        if not is_kept:
            path.unlink(missing_ok=True)
        reasons = ["Matplotlib is not installed."] if picture.draw else picture.notes
        first = f"`{name}` is not drawn"
        if is_kept:
            first += f" anew; this one is of an earlier report: ![{name}]({name})"
        texts[name] = [f"{first}.", *reasons]
    report = folder / "report.md"
    results.write_file(report, markdown(folder.resolve().name, found, texts).encode())
    if missing:
        raise missing
    return [*written, report]


def _pictures(found: results.Results, folder: Path) -> dict[str, _Picture]:
    everyone = [entry_of(row) for kind in results.KINDS for row in found[kind]]
    bubbles, of_bubbles = tradeoff.panels(found)
    tiles, of_tiles = crops.panels(found, folder)
    lines, of_lines = curves.panels(found)
    return {
        "tradeoff.png": _Picture(
            (lambda: tradeoff.draw(bubbles, everyone)) if bubbles else None, of_bubbles
        ),
        "crops.png": _Picture(
            (lambda: crops.draw(tiles)) if tiles else None, of_tiles, bool(found["quality"])
        ),
        "curves.png": _Picture((lambda: curves.draw(lines, everyone)) if lines else None, of_lines),
    }


def merge_folders(folders: list[Path], into: Path) -> None:
    """Add the rows of several comparisons to one, whose own rows stay.

    Of rows that tell the same, the one of the last folder stays.

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
