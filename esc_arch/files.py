"""Files: whole or absent, regular or refused, their digests, the room for them, and locks."""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, cast

from filelock import FileLock, Timeout

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Digest",
    "Held",
    "digest_of",
    "flush_folder",
    "free_bytes",
    "is_locked",
    "locked",
    "open_regular",
    "put_in_place",
    "read_regular",
    "remedy",
    "remove_parts",
    "sha256_of",
    "special_kind",
    "whole_file",
    "write_durably",
]

# Ends the hidden name of a file that is being written.
_PART = ".part"
# Its process, a number, and the end of the file's name.
_PART_NAME = re.compile(rf"\.(\d+)-\d+-.*{re.escape(_PART)}", re.DOTALL)
_LONG_AGO_S = 3600.0
_writing: set[str] = set()
_searched: set[Path] = set()
_CHUNK = 1 << 20
_SPECIAL = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_counter = itertools.count()


class Digest(NamedTuple):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@contextmanager
def whole_file(path: Path, work: Path | None = None, flush: bool = True) -> Iterator[Path]:
    """A temporary file, which gets its own name when the block ends without an error.

    The first of a process in a folder removes those that killed processes have left there.

    Args:
        path: of the file, which is replaced; its folder is there.
        work: folder for the temporary file, on the same file system; the file's own when None.
        flush: whether the content is on disk before the name is, and the name when the block has
            ended.  Without, a power cut may leave an empty file.

    Raises:
        OSError: when the file system refuses; it has the file's name.  Nothing is left behind
            then, and a file that was there before is unchanged.
    """
    folder = work or path.parent
    if folder not in _searched:
        _searched.add(folder)
        _remove_abandoned(folder)
    # Of the name's end alone: with all of it this one might be longer than a name can be.
    part = folder / f".{os.getpid()}-{next(_counter)}-{path.name[-40:]}{_PART}"
    try:
        if kind := special_kind(path):
            raise OSError(errno.EINVAL, f"{kind}, which no file can replace", str(path))
        with _held(part):
            yield part
        if flush:
            put_in_place(part, path)
        else:
            os.replace(part, path)
    except OSError as error:
        # A write or a flush does not know its file, and the temporary name says nothing.
        if error.filename in (None, str(part)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def _held(part: Path) -> Iterator[None]:
    """Make a temporary file, which is seen to be in work while the block lasts."""
    number = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    _writing.add(part.name)
    try:
        if sys.platform != "win32":
            # Ends with the process.  A number of one may be that of another machine or container.
            with suppress(OSError):
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        _writing.discard(part.name)
        os.close(number)


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of :func:`whole_file` whose process is gone."""
    with suppress(OSError):
        names = set(os.listdir(folder))
        for name in names - _writing:
            match = _PART_NAME.fullmatch(name)
            # A download of such a name has a lock or a record beside it, and goes on.
            beside = {f"{name}.json", f"{name.removesuffix(_PART)}.lock"}
            if match is not None and not beside & names and not _is_alive(int(match[1])):
                with suppress(OSError):
                    _remove_unless_held(folder / name)


def _remove_unless_held(part: Path) -> None:
    if sys.platform == "win32":
        # Fails for an open one.
        if time.time() - part.stat().st_mtime > _LONG_AGO_S:
            part.unlink()
        return
    number = os.open(part, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()
    finally:
        os.close(number)


def _is_alive(process: int) -> bool:
    """Whether another process has this number; this one knows what it writes."""
    if sys.platform == "win32" or process == os.getpid():
        return False  # where asking would end it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # another user's
    return True


def put_in_place(part: Path, path: Path) -> None:
    """Flush a complete file to disk and give it its name, which outlasts a power cut.

    Raises:
        OSError: when the file system refuses.
    """
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    flush_folder(path.parent)


def write_durably(path: Path, write: Callable[[IO[bytes]], object]) -> Digest:
    """Write a file by :func:`whole_file`, and digest its content.

    Args:
        path: of the file.
        write: writes the content, from beginning to end, to what it is given.

    Raises:
        OSError: as :func:`whole_file`.
    """
    with whole_file(path) as part, part.open("wb") as file:
        content = _Content(file)
        try:
            write(cast(IO[bytes], content))  # it has all that a writer calls
        except Exception:
            # torch.save hides what the file system said behind an error of its own.
            if content.error is not None:
                raise content.error from None
            raise
        file.flush()
        digest = content.digest()
    return digest


def flush_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut; Windows has no such call."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files of killed processes from a folder, which need not exist."""
    for part in folder.glob(f".*{_PART}"):
        with suppress(OSError):
            part.unlink()


def special_kind(path: str | os.PathLike[str]) -> str | None:
    """The kind of what is no file on a disk: ``"a pipe (FIFO)"``, ``"a socket"`` or ``"a device"``.

    Reading those waits for another process, or never ends.

    Returns:
        None for a regular file, a folder, and where nothing is or can be asked.
    """
    try:
        return _special(os.stat(path))
    except OSError:
        return None


def _special(status: os.stat_result) -> str | None:
    return next((kind for holds, kind in _SPECIAL if holds(status.st_mode)), None)


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file to read it, but nothing that is no file on a disk; links are followed.

    Raises:
        OSError: when it cannot be opened, or is a folder, a FIFO, a socket or a device; its
            ``strerror`` says so.
    """

    def refuse(status: os.stat_result) -> None:
        if kind := _special(status):
            raise OSError(errno.EINVAL, f"{kind}, no regular file", os.fspath(path))
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))

    refuse(os.stat(path))  # opening alone does something to some devices
    # It may have been replaced since: a FIFO is then opened at once, and refused.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, flags)
    try:
        refuse(os.fstat(number))
        return open(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, as :func:`open_regular` opens it.

    Raises:
        OSError: as there, and when memory does not hold it.
    """
    with open_regular(path) as file:
        try:
            return file.read()
        except MemoryError:
            size = os.fstat(file.fileno()).st_size
            text = f"{size:,} bytes, more than memory holds"
            raise OSError(errno.ENOMEM, text, os.fspath(path)) from None


def digest_of(path: Path) -> Digest:
    """
    Raises:
        OSError: when the file cannot be read.
    """
    with open_regular(path) as file:
        content = _Content(None)
        while chunk := file.read(_CHUNK):
            content.add(chunk)
    return content.digest()


def sha256_of(path: str | Path) -> str:
    """The checksum of a file, in hex.

    Raises:
        OSError: when it cannot be read.
    """
    return digest_of(Path(path)).sha256


def free_bytes(folder: Path) -> int:
    """Free space, in bytes, on the folder's file system for this user.

    Raises:
        OSError: when the folder cannot be asked.
    """
    return shutil.disk_usage(folder).free


def remedy(error: OSError) -> str:
    """The advice for a file that could not be read or written, as a sentence."""
    number = error.errno
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "Make room, or name another place."
    if number == errno.EROFS:
        return "Name a place on a file system that can be written to."
    if number in (errno.EACCES, errno.EPERM):
        return "Change its permissions, or name another place."
    if number == errno.ENAMETOOLONG:
        return "Give a shorter name."
    if number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.ELOOP):
        return "Name another place."
    if number == errno.EFBIG:
        return "Name a place that takes files of this size."
    return "Check the path."


class Held(Exception):
    """Another process or thread holds a lock.

    Attributes:
        holder: " (process 12 on machine)", or empty when that is not known.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def locked(
    path: Path,
    wait_s: float = 1.0,
    waiting: Callable[[str], object] | None = None,
    remove: bool = False,
) -> Iterator[None]:
    """Hold a lock inside the block; it ends with the process, however that ends.

    Children made by ``fork`` do not hold it.  On a file system without locks nothing is locked.

    Args:
        path: the lock's file, which is made with its folder.  It names the holder in JSON.
        wait_s: how long to wait for another holder.  A killed run's processes hold it for a
            moment, and so does :func:`is_locked`.
        waiting: when given, is called with the holder once ``wait_s`` is over, and the wait goes on
            without end.
        remove: whether the file is deleted at the end, where the system deletes open files; it
            stays otherwise.

    Raises:
        Held: when another holds it after that time.
        OSError: when the file cannot be made.
    """
    lock = FileLock(path, fallback_to_soft=False, thread_local=False, on_acquired=_sign)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        if not path.exists():
            # filelock tries on where the file cannot be made; this raises the reason.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT))
        if waiting is None:
            raise Held(_holder(path)) from None
        waiting(_holder(path))
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if not _has_no_locks(error):
            raise
    try:
        yield
    finally:
        if remove:
            # Before the release: waiting processes see that it is gone, and make another.
            with suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()  # nothing where it was not acquired


def is_locked(path: Path) -> bool | None:
    """Whether someone holds the lock of a file; None when it is not there or cannot be asked.

    A file that this user may only read is enough, except on Windows.
    """
    if sys.platform == "win32":
        return _is_locked_for_writing(path)
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared, so that two who ask at once do not find each other.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(file)
    return False


def _is_locked_for_writing(path: Path) -> bool | None:
    if not path.exists():
        return None
    try:
        with FileLock(path, timeout=0, fallback_to_soft=False):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return None


def _has_no_locks(error: Exception) -> bool:
    """Whether a file system says that it cannot lock (some network file systems)."""
    unable = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
    return isinstance(error, NotImplementedError) or getattr(error, "errno", None) in unable


def _sign(file: int) -> None:
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
    # A full disk; the name of the holder only serves messages.
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, text.encode())


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f" (process {holder['pid']} on {holder['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class _Content:
    """A file to write to that digests its content and keeps its first error."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self.error: OSError | None = None
        self._file = file
        self._size = 0
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        if self.error is not None:
            raise self.error
        try:
            if self._file is not None:
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
