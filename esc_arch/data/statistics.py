"""Statistics of a set of images: sizes, kinds, mean colour, and whether crops fit."""

import functools
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from esc_arch.data.image_sets import FoundSet, find_sets, opened
from esc_arch.data.lmdb_reader import DamagedLmdb
from esc_arch.data.processes import Processes, ProcessKilled
from esc_arch.errors import UserError
from esc_arch.imaging.codecs import decode
from esc_arch.progress import progress

__all__ = ["Extent", "SetStatistics", "TooSmall", "measure"]

# 16-bit values are 257 times as large as 8-bit ones of the same brightness.
_OF_8_BITS, _WHITE = 257, 65535


class Extent(NamedTuple):
    """Of widths or heights, in pixels."""

    smallest: int
    median: float
    largest: int


class TooSmall(NamedTuple):
    """Names of images that are smaller than a crop.

    Attributes:
        gt_size: side of the HR crop.
        side: of the crop from this set: less where the images are LR.
    """

    gt_size: int
    side: int
    names: list[str]


class SetStatistics(NamedTuple):
    """One set.

    Attributes:
        images: number of those that could be read.
        unreadable: an error message for each other one.
        smallest: the image with the shortest side, its width and height.
        kinds: how many images there are of each, such as "RGB, 8 bit".
        mean: red, green and blue over all pixels, in [0, 1]; grey counts as all three, alpha
            is left out.  (0.4488, 0.4371, 0.4040) is published for DIV2K's training images.
    """

    name: str
    images: int
    bytes: int
    width: Extent
    height: Extent
    smallest: tuple[str, int, int]
    kinds: dict[str, int]
    mean: tuple[float, float, float]
    too_small: list[TooSmall]
    unreadable: list[str]


class _Image(NamedTuple):
    bytes: int
    height: int
    width: int
    kind: str
    sums: tuple[int, int, int]


def measure(
    path: str | os.PathLike[str], gt_sizes: Sequence[int], jobs: int
) -> list[SetStatistics]:
    """Measure a folder of images, an LMDB, or each set that ``basicsr data prepare`` made.

    Args:
        gt_sizes: sides of HR crops to try.
        jobs: number of processes.

    Raises:
        UserError: when there is no image, or none that can be read.
    """
    sets, _ = find_sets(path)
    with Processes(jobs) as processes:
        return [_measure(found, gt_sizes, processes) for found in sets]


def _measure(found: FoundSet, gt_sizes: Sequence[int], processes: Processes) -> SetStatistics:
    sides: list[tuple[int, int]] = []
    kinds: Counter[str] = Counter()
    total = 0
    sums = [0, 0, 0]
    read: list[str] = []
    unreadable: list[str] = []
    try:
        (names,) = processes.map(_names, [found.path])
        if not names:
            raise UserError(f"{found.path}: expected images; found an LMDB without any.")
        inspect = functools.partial(_inspect, found.path)
        with progress(f"measuring {found.name}", len(names)) as advance:
            results = processes.map(inspect, names)
            for name, image in zip(names, results, strict=True):
                advance(1)
                if isinstance(image, str):
                    unreadable.append(image)
                    continue
                read.append(name)
                sides.append((image.width, image.height))
                kinds[image.kind] += 1
                total += image.bytes
                sums = [a + b for a, b in zip(sums, image.sums, strict=True)]
    except DamagedLmdb as error:
        raise UserError(f"{found.path}: {error}. Make the LMDB again.") from None
    except ProcessKilled:
        raise UserError(
            f"{found.path}: expected to read all images; found that a process was killed by it: "
            "damaged, or too little memory. Run `basicsr data verify`, or use fewer --jobs."
        ) from None
    if not read:
        raise UserError(f"{unreadable[0]} No image of {found.path} can be read.")
    pixels = sum(width * height for width, height in sides)
    mean = [value / (pixels * _WHITE) for value in sums]
    shortest = min(range(len(read)), key=lambda i: (min(sides[i]), max(sides[i]), i))
    too_small = []
    for gt_size in gt_sizes:
        side = gt_size // found.scale
        small = [name for name, size in zip(read, sides, strict=True) if min(size) < side]
        too_small.append(TooSmall(gt_size, side, small))
    return SetStatistics(
        found.name,
        len(read),
        total,
        _extent([width for width, _ in sides]),
        _extent([height for _, height in sides]),
        (read[shortest], *sides[shortest]),
        dict(kinds.most_common()),
        (mean[0], mean[1], mean[2]),
        too_small,
        unreadable,
    )


def _extent(sides: list[int]) -> Extent:
    return Extent(min(sides), statistics.median(sides), max(sides))


def _names(path: Path) -> tuple[str, ...]:
    return opened(path).names


def _inspect(path: Path, name: str) -> _Image | str:
    """Measurements of an image, or an error message."""
    images = opened(path)
    try:
        content = images.read(name)
        image = decode(content, images.where(name)).image
    except UserError as error:
        return str(error)
    height, width = image.shape[:2]
    planes = image.reshape(height, width, -1)
    factor = _OF_8_BITS if image.dtype == np.uint8 else 1
    # Whole numbers, so that the order of images and the number of processes do not matter.
    totals = [int(total) * factor for total in planes.sum(axis=(0, 1), dtype=np.uint64)]
    sums = (totals[0],) * 3 if len(totals) == 1 else (totals[2], totals[1], totals[0])
    colours = {1: "grey", 3: "RGB", 4: "RGBA"}[len(totals)]
    return _Image(len(content), height, width, f"{colours}, {image.dtype.itemsize * 8} bit", sums)
