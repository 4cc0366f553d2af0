"""Files that are whole or not there, on disk when the function returns."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from esc_arch.download import flush_folder

__all__ = ["Digest", "digest_of", "remove_parts", "write_durably"]

# Ends the hidden name of a file that is being written.
_PART = ".part"
_CHUNK = 2**20


class Digest(NamedTuple):
    """What tells a whole file from a damaged one; size in bytes."""

    size: int
    sha256: str


def write_durably(path: Path, write: Callable[[BinaryIO], object]) -> Digest:
    """Write a file under a hidden name in its folder, flush it to disk, and rename it.

    Args:
        write: writes the content, from beginning to end, to what it is given.

    Raises:
        OSError: when the file system refuses; it has the file's name.  Nothing is left behind
            then, and a file that was there before is unchanged.
    """
    part = path.with_name(f".{path.name}{_PART}")
    try:
        with part.open("wb") as file:
            content = _Content(file)
            try:
                write(content)
            except Exception:
                # torch.save hides what the file system said behind an error of its own.
                if content.error is not None:
                    raise content.error from None
                raise
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        flush_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        # A write or a flush does not know its file.
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    return content.digest()


def remove_parts(folder: Path) -> None:
    """Remove what killed processes were writing into a folder; it need not be there."""
    for part in folder.glob(f".*{_PART}"):
        with suppress(OSError):
            part.unlink()


def digest_of(path: Path) -> Digest:
    """
    Raises:
        OSError: when the file cannot be read.
    """
    with path.open("rb") as file:
        content = _Content(None)
        while chunk := file.read(_CHUNK):
            content.add(chunk)
    return content.digest()


class _Content:
    """A file to write to that measures what is written and keeps its first error."""

    def __init__(self, file: BinaryIO | None) -> None:
        self.error: OSError | None = None
        self._file = file
        self._size = 0
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        if self.error is not None:
            raise self.error
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        return self.add(data)

    def flush(self) -> None:
        """Nothing: the file is flushed when all is written."""

    def add(self, data: bytes | memoryview) -> int:
        self._hash.update(data)
        length = memoryview(data).nbytes
        self._size += length
        return length

    def digest(self) -> Digest:
        return Digest(self._size, self._hash.hexdigest())
