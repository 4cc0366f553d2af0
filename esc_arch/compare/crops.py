"""``crops.png``: the same crop from HR, bicubic and every network, a panel for each scale.

The image is the one whose PSNR differs the most between networks, the crop the one where
their outputs do.  Shapes: images are (H, W, 3), RGB, uint8.
"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import cv2
import numpy as np

from esc_arch.compare import figures
from esc_arch.compare.results import Results, Row
from esc_arch.compare.series import BICUBIC, Series, in_order, is_finite, labels, scales, series_of
from esc_arch.errors import UserError, escaped
from esc_arch.imaging.codecs import read_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["CROP", "CropPanel", "Tile", "crop_panels", "draw_crops", "most_different_crop"]

_T = TypeVar("_T")

CROP = 64  # side of a crop, in HR pixels

_COLUMNS = 4
# Sides of a tile and of the whole image's column, and what a line of text and a title take.
_TILE_IN, _WHOLE_IN, _LINE_IN, _TITLE_IN = 1.15, 1.95, 0.125, 0.45


class Tile(NamedTuple):
    """A crop with its lines of text below it."""

    lines: list[str]
    pixels: np.ndarray


class CropPanel(NamedTuple):
    """One scale.

    Attributes:
        whole: the HR image.
        box: left, top, width and height of the crop in it.
    """

    title: str
    whole: np.ndarray
    box: tuple[int, int, int, int]
    tiles: list[Tile]


def crop_panels(results: Results, folder: Path) -> tuple[list[CropPanel], list[str]]:
    """The panels that the written images give, and notes on the images left out, with the reason.

    Args:
        results: what was found.
        folder: the comparison's, which the rows' ``output`` starts from.
    """
    found, notes = [], []
    if not results["quality"]:
        notes.append("No quality was measured.")
    for scale in scales(results):
        rows = [row for row in results["quality"] if row["scale"] == scale]
        if not rows:
            continue
        try:
            panel, missing = _panel(scale, rows, folder)
        except UserError as error:
            panel, missing = None, [str(error)]
        found += [panel] if panel else []
        notes += [f"x{scale}: {text}" for text in missing]
    return found, notes


def _panel(scale: int, rows: list[Row], folder: Path) -> tuple[CropPanel | None, list[str]]:
    of_images: dict[tuple[str, str], dict[Series, Row]] = {}
    for row in rows:
        if _is_file(Path(), row.get("hr")) and _is_file(folder, row.get("output")):
            of_images.setdefault((row["set"], row["image"]), {})[series_of(row)] = row
    everyone = in_order(series_of(row) for row in rows)
    if not of_images:
        return None, ["the HR images or the networks' outputs are not there."]
    # The first of the best: as many networks as can be had, then the largest spread.
    name, image = max(of_images, key=lambda key: _merit(of_images[key]))
    chosen = of_images[name, image]
    names = labels(everyone)
    notes = [
        f"{names[one]} is left out: no output of {image} ({name})."
        for one in everyone
        if one not in chosen
    ]
    chosen_series = in_order(chosen)
    hr = _rgb(Path(chosen[chosen_series[0]]["hr"]))
    outputs = {one: _rgb(folder / chosen[one]["output"]) for one in chosen_series}
    height, width = outputs[chosen_series[0]].shape[:2]
    for one, output in outputs.items():
        if output.shape[:2] != (height, width) or height > len(hr) or width > hr.shape[1]:
            raise UserError(
                f"{chosen[one]['output']}: expected {width} x {height} pixels, within the HR "
                f"image's {hr.shape[1]} x {len(hr)}; found {output.shape[1]} x {len(output)}. "
                "Measure the quality again."
            )
    hr = hr[:height, :width]  # a multiple of the scale, as the networks saw it
    left, top, size_x, size_y = box = most_different_crop(hr, _compared(outputs))

    def cut(pixels: np.ndarray) -> np.ndarray:
        return pixels[top : top + size_y, left : left + size_x]

    tiles = [Tile(["HR"], cut(hr))]
    for one, output in outputs.items():
        psnr = chosen[one].get("psnr")
        value = "no PSNR" if psnr is None else f"{psnr:.2f} dB"
        tiles.append(Tile([*_wrapped(names[one]), value], cut(output)))
    title = f"x{scale}: {image} ({name}), PSNR of the whole image"
    return CropPanel(title, hr, box, tiles), notes


def _is_file(folder: Path, path: str | None) -> bool:
    return path is not None and (folder / path).is_file()


def _merit(rows: dict[Series, Row]) -> tuple[int, float]:
    psnr = [row["psnr"] for row in _compared(rows).values() if is_finite(row.get("psnr"))]
    return len(rows), max(psnr) - min(psnr) if psnr else 0.0


def _compared(of_series: dict[Series, _T]) -> dict[Series, _T]:
    """The networks; bicubic with them where there is only one."""
    networks = {e: value for e, value in of_series.items() if e.network != BICUBIC}
    return networks if len(networks) > 1 else dict(of_series)


def _rgb(path: Path) -> np.ndarray:
    """An image file as RGB of 8 bits, without transparency."""
    image = read_image(path)
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)


def most_different_crop(
    hr: np.ndarray, outputs: dict[Series, np.ndarray]
) -> tuple[int, int, int, int]:
    """The crop in which the errors vary the most between networks.

    Args:
        hr: (H, W, 3).
        outputs: (H, W, 3) each; of a single one its squared error decides.

    Returns:
        Left, top, width and height: CROP, or the image's side where that is less.
    """
    errors = np.stack([image.astype(np.float32) - hr for image in outputs.values()])
    local = (errors.var(axis=0) if len(errors) > 1 else errors[0] ** 2).sum(axis=-1)
    height, width = min(CROP, len(hr)), min(CROP, hr.shape[1])
    total = cv2.integral(local, sdepth=cv2.CV_64F)
    sums = total[height:, width:] - total[:-height, width:]
    sums += total[:-height, :-width] - total[height:, :-width]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(left), int(top), width, height


def _wrapped(name: str) -> list[str]:
    lines = [line for part in name.split(", ") for line in textwrap.wrap(part, 18)]
    return lines if len(lines) < 4 else [*lines[:3], "..."]


def draw_crops(shown: list[CropPanel]) -> "Figure":
    """The picture; inside :func:`figures.fixed_style`.

    Args:
        shown: at least one panel.
    """
    heights = [_height_in(panel) for panel in shown]
    figure = figures.new_figure(sum(heights))
    parts = figure.subfigures(len(shown), squeeze=False, height_ratios=heights)[:, 0]
    for part, panel in zip(parts, shown, strict=True):
        _draw_panel(part, panel)
    return figure


def _rows(panel: CropPanel) -> int:
    return -(-len(panel.tiles) // _COLUMNS)


def _height_in(panel: CropPanel) -> float:
    height, width = panel.whole.shape[:2]
    tile_in = _TILE_IN + _LINE_IN * max(len(tile.lines) for tile in panel.tiles)
    return _TITLE_IN + max(_rows(panel) * tile_in, _WHOLE_IN * min(height / width, 1.5))


def _draw_panel(part: "SubFigure", panel: CropPanel) -> None:
    from matplotlib.patches import Rectangle

    part.suptitle(escaped(panel.title), fontsize=10, x=0.01, ha="left")
    widths = (_WHOLE_IN, *[_TILE_IN] * _COLUMNS)
    grid = part.add_gridspec(_rows(panel), len(widths), width_ratios=widths)
    whole = part.add_subplot(grid[:, 0], anchor="N")
    whole.imshow(panel.whole, interpolation="antialiased")
    left, upper, width, height = panel.box
    for colour, line in (("black", 3.0), ("#F0E442", 1.5)):
        corner = left - 0.5, upper - 0.5
        whole.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, lw=line))
    for index, tile in enumerate(panel.tiles):
        row, column = divmod(index, _COLUMNS)
        axes = part.add_subplot(grid[row, column + 1], anchor="N")
        axes.imshow(tile.pixels, interpolation="nearest")
        axes.set_xlabel("\n".join(tile.lines), fontsize=7.5, linespacing=1.1)
    for axes in part.axes:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
