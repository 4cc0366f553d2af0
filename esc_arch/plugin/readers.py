"""How image lists and LMDBs are opened, by BasicSR's datasets and by this package."""

import io
import os
from weakref import WeakValueDictionary

import lmdb

from esc_arch.files import open_regular

__all__ = ["list_text", "shared_environment"]


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
