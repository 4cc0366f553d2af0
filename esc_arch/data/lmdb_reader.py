"""Opening an LMDB of images for reading, and lists of images, as its ``meta_info.txt``.

Such a folder holds ``data.mdb`` and ``meta_info.txt``, with lines like
``0001_s001.png (480,480,3) 1``.  BasicSR takes as key what stands before the first dot.
"""

import io
import os
import re
from typing import NamedTuple
from weakref import WeakValueDictionary

import lmdb

from esc_arch.files import open_regular

__all__ = ["DamagedLmdb", "MetaLine", "list_text", "open_lmdb", "parse_meta_line"]
__all__ += ["shared_environment"]

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


def list_text(file: str | os.PathLike[str]) -> str:
    """A list of images: UTF-8 in any locale, without the byte order mark of editors on Windows.

    Raises:
        OSError: when it cannot be read.
        UnicodeDecodeError: when it is no text.
    """
    with io.TextIOWrapper(open_regular(file), "utf-8-sig") as opened:
        text = opened.read()
    # In a locale of another encoding names are as the system is asked for them.
    return os.fsdecode(text.encode())


def open_lmdb(path: str | os.PathLike[str]) -> lmdb.Environment:
    """Open an LMDB as BasicSR does, see :func:`shared_environment`, after a look at its file.

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


_opened: "WeakValueDictionary[tuple[int, int], lmdb.Environment]" = WeakValueDictionary()


def shared_environment(path: str | os.PathLike[str]) -> lmdb.Environment:
    """The environment of an LMDB folder, read-only and without lock.

    lmdb opens a database once in a process: all callers share it, and it is closed when the last
    one has forgotten it.  Workers made by ``fork`` go on with what their parent has opened, which
    is mapped memory.

    Raises:
        OSError, lmdb.Error: when it cannot be opened.
    """
    status = os.stat(os.path.join(path, "data.mdb"))
    place = status.st_dev, status.st_ino
    environment = _opened.get(place)
    if environment is None:
        environment = lmdb.open(os.fsencode(path), readonly=True, lock=False, readahead=False)
        _opened[place] = environment
    return environment
