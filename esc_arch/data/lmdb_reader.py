"""Opening an LMDB of images for reading, and lists of images, as its ``meta_info.txt``.

Such a folder holds ``data.mdb`` and ``meta_info.txt``, with lines like
``0001_s001.png (480,480,3) 1``.  BasicSR takes as key what stands before the first dot.
"""

import os
import re
from typing import NamedTuple

import lmdb

from esc_arch.files import open_regular
from esc_arch.plugin.readers import shared_environment

__all__ = ["DamagedLmdb", "MetaLine", "open_lmdb", "parse_meta_line"]

_SHAPE = re.compile(r" \((\d+),\s*(\d+)(?:,\s*(\d+))?")


class DamagedLmdb(Exception):
    """An LMDB that cannot be read.

    Attributes:
        expected, found: parts of an error message.
    """

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected, self.found = expected, found

    def __str__(self) -> str:
        return f"expected {self.expected}; found {self.found}"


class MetaLine(NamedTuple):
    """A line of ``meta_info.txt``.

    Attributes:
        name: of the image, with extension.
        key: as BasicSR reads it.
        shape: height, width and, where the line has it, channels; None for a line without.
    """

    name: str
    key: str
    shape: tuple[int, ...] | None


def parse_meta_line(line: str) -> MetaLine:
    """Name, key and shape in a line of ``meta_info.txt``."""
    shape = _SHAPE.search(line)
    name = line[: shape.start()] if shape else line.split(" ")[0]
    sides = tuple(int(side) for side in shape.groups() if side) if shape else None
    return MetaLine(name, line.split(".")[0], sides)


def open_lmdb(path: str | os.PathLike[str]) -> lmdb.Environment:
    """Open an LMDB, after a look at its file, as all readers of the process share it.

    Raises:
        DamagedLmdb: when ``data.mdb`` is missing, cut off, or no LMDB.
    """
    data = os.path.join(path, "data.mdb")
    try:
        with open_regular(data) as file:
            size = os.fstat(file.fileno()).st_size
        if not size:
            raise DamagedLmdb("an LMDB", f"{data}: an empty file")
        database = shared_environment(path)
    except lmdb.InvalidError:
        raise DamagedLmdb("an LMDB", f"another file, {data}") from None
    except lmdb.Error as error:
        raise DamagedLmdb("an LMDB", f"{data}: {error}") from None
    except OSError as error:
        raise DamagedLmdb("an LMDB", f"{data}: {error.strerror}") from None
    # Reading pages beyond the end of the file would end the process.
    needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if size < needed:
        raise DamagedLmdb(f"{needed} bytes of data", f"{size} bytes in {data}")
    return database
