"""The image sets below a path, and which of them belong together.

``basicsr data prepare`` makes, and this recognises::

    HR/NAME.png             LR_bicubic/X2/NAMEx2.png
    HR_sub/NAME_s001.png    LR_bicubic/X2_sub/NAME_s001.png
    HR.lmdb, HR_sub.lmdb    LR_bicubic/X2.lmdb, LR_bicubic/X2_sub.lmdb
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from esc_arch.data.image_set import open_image_set

__all__ = ["FoundPair", "FoundSet", "find_sets", "pair_up"]

_HR = re.compile(r"HR(_sub)?(\.lmdb)?")
_LR = re.compile(r"X(\d+)(_sub)?(\.lmdb)?")
_LR_FOLDER = "LR_bicubic"


class FoundSet(NamedTuple):
    """A set of images.

    Attributes:
        name: below the path that was searched, or that path.
        scale: by which the images were made smaller; 1 for HR.
    """

    name: str
    path: Path
    scale: int = 1


class FoundPair(NamedTuple):
    """LR images and the HR images they were made of.

    Attributes:
        hr: None where these are missing.
        is_exact: whether each HR side is a multiple of the scale, as of sub-images.
    """

    hr: FoundSet | None
    lq: FoundSet
    is_exact: bool


def find_sets(path: str | os.PathLike[str]) -> tuple[list[FoundSet], list[FoundPair]]:
    """All sets of a prepared folder with their pairs, or the one set that the path is.

    Raises:
        UserError: when there is no such folder.
    """
    path = open_image_set(path).path
    high = {name: FoundSet(name, path / name) for name in _folders(path) if _HR.fullmatch(name)}
    low = {
        name: FoundSet(f"{_LR_FOLDER}/{name}", path / _LR_FOLDER / name, int(match[1]))
        for name in _folders(path / _LR_FOLDER)
        if (match := _LR.fullmatch(name))
    }
    if path.name.endswith(".lmdb") or not (high or low):
        return [FoundSet(str(path), path)], []
    pairs = []
    for name, lq in low.items():
        kind = re.sub(r"X\d+", "HR", name)
        pairs.append(FoundPair(high.get(kind), lq, "_sub" in name))
    return [*high.values(), *low.values()], pairs


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def pair_up(hr: Iterable[str], lq: Iterable[str], scale: int) -> dict[str, str | None]:
    """The HR stem of each LR stem: the same, or without ``x2`` at its end.

    One way of naming holds for the whole set: the one by which more find each other.

    Returns:
        LR stem to HR stem, None for one without.
    """
    hr, lq, suffix = set(hr), list(lq), f"x{scale}"
    same = {stem: stem if stem in hr else None for stem in lq}
    cut = {
        stem: short if stem.endswith(suffix) and (short := stem[: -len(suffix)]) in hr else None
        for stem in lq
    }
    return max(same, cut, key=lambda pairs: sum(p is not None for p in pairs.values()))
