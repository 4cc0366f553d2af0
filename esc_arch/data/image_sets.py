"""Sets of images, each a folder or an LMDB, and which of them belong together.

``basicsr data prepare`` makes, and :func:`find_sets` recognises::

    HR/NAME.png             LR_bicubic/X2/NAMEx2.png
    HR_sub/NAME_s001.png    LR_bicubic/X2_sub/NAME_s001.png
    HR_X2/NAME.png          LR_bicubic/X2/NAMEx2.png
    HR.lmdb, ...            LR_bicubic/X2.lmdb, ...
"""

import functools
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import lmdb

from esc_arch.data.lmdb_reader import (
    DamagedLmdb,
    MetaLine,
    open_lmdb,
    parse_meta_line,
)
from esc_arch.errors import UserError
from esc_arch.files import read_regular, special_kind
from esc_arch.imaging.codecs import ImageError, find_images
from esc_arch.plugin.readers import list_text
from esc_arch.terminal import say

__all__ = [
    "FoundPair",
    "FoundSet",
    "ImageSet",
    "find_sets",
    "open_image_set",
    "opened",
    "pair_up",
    "read_meta_info",
]

_HR = re.compile(r"HR(_sub|_X\d+)?(\.lmdb)?")
_LR = re.compile(r"X(\d+)(_sub)?(\.lmdb)?")
_LR_FOLDER = "LR_bicubic"


class ImageSet:
    """Encoded images by name, of a folder, or of an LMDB as BasicSR reads it.

    Nothing is read before it is asked for.

    Args:
        path: the folder, or the LMDB, which ends in ``.lmdb``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.is_lmdb = self.path.name.endswith(".lmdb")
        self._database: lmdb.Environment | None = None

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """All images, sorted: paths below the folder with ``/``, or keys of the LMDB.

        Raises:
            UserError: when a folder holds none.
            DamagedLmdb: when an LMDB cannot be read.
        """
        if not self.is_lmdb:
            return tuple(p.relative_to(self.path).as_posix() for p in find_images(self.path, say))
        with self._reading() as transaction:
            keys = transaction.cursor().iternext(values=False)
            return tuple(bytes(key).decode("ascii", "backslashreplace") for key in keys)

    def stem(self, name: str) -> str:
        """The name without extension, by which images of two sets are paired."""
        return name if self.is_lmdb else os.path.splitext(name)[0]

    def where(self, name: str) -> str:
        """The path of the image for messages."""
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes:
        """The image as it is encoded.

        Raises:
            ImageError: when it cannot be read.
            DamagedLmdb: when the LMDB cannot.
        """
        reason = "no such key"
        try:
            if not self.is_lmdb:
                return read_regular(self.path / name)
            with self._reading() as transaction:
                value = transaction.get(name.encode())
                if value is not None:
                    return bytes(value)
        except OSError as error:
            reason = error.strerror or str(error)
        text = f"{self.where(name)}: expected an image; found: {reason}."
        raise ImageError(text, reason)

    def close(self) -> None:
        """Give the LMDB back; reading opens it again."""
        self._database = None

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        if self._database is None:
            self._database = open_lmdb(self.path)
        try:
            # Buffers look a key up without copying its image.
            with self._database.begin(buffers=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise DamagedLmdb(
                "an LMDB", f"{self.path}/data.mdb, which is damaged: {error}"
            ) from None


def open_image_set(path: str | os.PathLike[str]) -> ImageSet:
    """The images of a folder or LMDB.

    Raises:
        UserError: when there is no such folder.
    """
    if not os.path.isdir(path):
        found = special_kind(path) or ("a file" if os.path.exists(path) else "nothing")
        raise UserError(f"{path}: expected a folder of images or an LMDB; found {found}.")
    return ImageSet(path)


@functools.cache
def opened(path: Path) -> ImageSet:
    """The set at a path, open as long as the process lives: for one that only reads it."""
    return open_image_set(path)


def read_meta_info(file: str | os.PathLike[str]) -> list[MetaLine]:
    """The lines of a list of images: ``meta_info.txt`` of an LMDB, or one without sizes.

    Raises:
        OSError: when it cannot be read.
        UnicodeDecodeError: when it is no text.
    """
    return [parse_meta_line(line.strip()) for line in io.StringIO(list_text(file))]


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
        whole = high.get(re.sub(r"X\d+", "HR", name))
        crops = high.get(f"HR_{name}")
        if crops is not None:
            pairs.append(FoundPair(crops, lq, is_exact=True))
        if crops is None or whole is not None:
            pairs.append(FoundPair(whole, lq, "_sub" in name))
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
