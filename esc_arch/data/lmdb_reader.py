"""Opening an LMDB of images for reading, and the lines of its ``meta_info.txt``.

Such a folder holds ``data.mdb`` and ``meta_info.txt``, with lines like
``0001_s001.png (480,480,3) 1``.  BasicSR takes as key what stands before the first dot.
"""

import os
import re
from typing import NamedTuple

import lmdb

from esc_arch.data.lmdb_errors import DamagedLmdb
from esc_arch.data.lmdb_structure import check_structure

__all__ = ["DamagedLmdb", "MetaLine", "open_lmdb", "parse_meta_line"]

_SHAPE = re.compile(r" \((\d+),\s*(\d+)(?:,\s*(\d+))?")


class MetaLine(NamedTuple):
    """A line of ``meta_info.txt``.

    Attributes:
        name: the image's, with extension.
        key: as BasicSR reads it.
        shape: height, width and, where the line tells it, channels; None when it tells none.
    """

    name: str
    key: str
    shape: tuple[int, ...] | None


def parse_meta_line(line: str) -> MetaLine:
    shape = _SHAPE.search(line)
    name = line[: shape.start()] if shape else line.split(" ")[0]
    sides = tuple(int(side) for side in shape.groups() if side) if shape else None
    return MetaLine(name, line.split(".")[0], sides)


def open_lmdb(path: str | os.PathLike[str]) -> lmdb.Environment:
    """Open an LMDB as BasicSR does, read-only and without lock, if the library can survive it.

    Raises:
        DamagedLmdb: when ``data.mdb`` is missing, cut off, damaged or none.
    """
    data = os.path.join(path, "data.mdb")
    try:
        check_structure(data)
        return lmdb.open(os.fspath(path), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DamagedLmdb("an LMDB", f"{data}: {error}") from None
    except OSError as error:
        raise DamagedLmdb("an LMDB", f"{data}: {error.strerror}") from None
