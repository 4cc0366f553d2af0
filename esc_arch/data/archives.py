"""Extracting zip and tar archives of images that nobody vouches for.

All of an archive is taken or nothing; nothing in it is trusted: not its names, not the
sizes it tells, not the kinds of its members.
"""

import gzip
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, NoReturn

from rich.filesize import decimal

from esc_arch.errors import UserError
from esc_arch.files import flush_folder
from esc_arch.progress import progress

MAX_MEMBERS = 100_000
# Images hardly compress: an archive of them holds little more than its own size.
MAX_RATIO = 10
SMALL_BYTES = 16 << 20

_CHUNK = 1 << 18
# tarfile reads a header, such as a long name, at once.
_LONGEST_HEADER = 1 << 20
_BLOCK = 512
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    ArithmeticError,
    RuntimeError,
)


def extract(archive: str | Path, folders: Mapping[str, Path]) -> None:
    """Take folders out of an archive.

    Each is written to ``.NAME.extracting`` beside its destination and renamed when all of
    the archive was read, so that a destination is complete or not there.  Other members are
    checked and left out.

    Args:
        archive: zip, tar or tar.gz, told by its content.
        folders: the destination of each folder of the archive, none of them there yet.

    Raises:
        UserError: when the archive is broken, hostile, or without one of the folders, or
            when a destination exists or cannot be written.
    """
    archive = Path(archive)
    extraction = _Extraction(archive, folders)
    try:
        extraction.run()
    except _BROKEN as error:
        raise UserError(
            f"{archive}: expected a complete zip or tar archive; found a broken one "
            f"({_first_line(error)}). Delete it and download it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{archive}: expected to extract it; found {error.filename or archive}: "
            f"{error.strerror or error}. Mend that and run again."
        ) from error
    finally:
        extraction.clean(ignore_errors=True)


@dataclass(frozen=True)
class _Member:
    """One entry of an archive.

    Attributes:
        kind: ``file``, ``folder``, or what it is instead.
        size: bytes that the archive says it has.
        open: gives its content.
    """

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes]]


class _Extraction:
    def __init__(self, archive: Path, folders: Mapping[str, Path]) -> None:
        self._archive, self._folders = archive, folders
        self._parts = {
            folder: destination.with_name(f".{destination.name}.extracting")
            for folder, destination in folders.items()
        }
        self._left = 0

    def run(self) -> None:
        size = self._archive.stat().st_size
        self._left = MAX_RATIO * size + SMALL_BYTES
        self.clean()
        for folder, destination in self._folders.items():
            if os.path.lexists(destination):
                raise UserError(
                    f"{destination}: expected no such folder yet; found one, which is left as it "
                    "is. Move it away to extract the archive."
                )
            self._parts[folder].mkdir(parents=True)
            self._check_room(destination.parent, size)
        with (
            open(self._archive, "rb") as file,
            progress(f"extracting {self._archive.name}", size, "bytes") as advance,
        ):
            found = self._take(_members(file), advance)
        for folder in self._folders:
            if folder not in found:
                raise UserError(
                    f"{self._archive}: expected files in its folder {folder}; found none. It is "
                    "another archive than was expected: delete it and download it again."
                )
        for folder, destination in self._folders.items():
            os.rename(self._parts[folder], destination)
            flush_folder(destination.parent)

    def clean(self, ignore_errors: bool = False) -> None:
        """Remove what a killed extraction, or this one, left half written."""
        for part in self._parts.values():
            if os.path.lexists(part):
                shutil.rmtree(part, ignore_errors)

    def _take(self, members: Iterator[_Member], advance: Callable[[int], None]) -> set[str]:
        """Write the members of the wanted folders; the folders that have files."""
        seen: set[str] = set()
        found: set[str] = set()
        for number, member in enumerate(members, 1):
            if number > MAX_MEMBERS:
                self._refuse(f"at most {MAX_MEMBERS} members", "more")
            path = self._safe(member.name)
            if member.kind not in ("file", "folder"):
                self._refuse("files and folders only", f"{member.name!r}, {member.kind}")
            if member.kind == "folder":
                continue
            if path in seen:
                self._refuse("each name once", f"{member.name!r} twice")
            seen.add(path)
            self._count(member.size, member.name)
            folder = next((f for f in self._folders if path.startswith(f"{f}/")), None)
            if folder is None:
                advance(member.size)
                continue
            found.add(folder)
            target = self._parts[folder] / path[len(folder) + 1 :]
            target.parent.mkdir(parents=True, exist_ok=True)
            self._write(member, target, advance)
        return found

    def _write(self, member: _Member, target: Path, advance: Callable[[int], None]) -> None:
        written = 0
        with member.open() as source, open(target, "xb") as file:
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > member.size:
                    break
                file.write(chunk)
                advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if written != member.size:
            more = "more" if written > member.size else written
            self._refuse(f"{member.size} bytes of {member.name!r}, as it says", str(more))

    def _count(self, size: int, name: str) -> None:
        """Take the bytes of a member off what an archive of this size may hold."""
        if not 0 <= size <= self._left:
            most = MAX_RATIO * self._archive.stat().st_size + SMALL_BYTES
            self._refuse(
                f"at most {decimal(most)} in an archive of images of this size",
                f"more with {name!r} of {size} bytes",
            )
        self._left -= size

    def _safe(self, name: str) -> str:
        """A member's path, when it stays below the folder where it is put."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        outside = name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name)
        if outside or "\\" in name or "\0" in name:
            self._refuse("names that lead nowhere else", repr(name))
        return "/".join(parts)

    def _check_room(self, folder: Path, needed: int) -> None:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{self._archive}: expected {decimal(needed)} of room for its images in {folder}; "
                f"found {decimal(free)}. Make room and run again."
            )

    def _refuse(self, expected: str, found: str) -> NoReturn:
        raise UserError(
            f"{self._archive}: expected {expected}; found {found}. Nothing was extracted. Delete "
            "it and get it from a place that you trust."
        )


def _members(file: BinaryIO) -> Iterator[_Member]:
    start = file.read(4)
    file.seek(0)
    if start.startswith(b"PK"):
        return _zip_members(file)
    if start.startswith(b"\x1f\x8b"):
        return _tar_members(gzip.GzipFile(fileobj=file))
    return _tar_members(file)


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            kind = "folder" if info.is_dir() else "file"
            # The upper half is a Unix mode, when the archive was made there.
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link or a device"
            elif info.flag_bits & 0x41:
                kind = "which is encrypted"
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                kind = "compressed in an unusual way"
            yield _Member(info.filename, kind, info.file_size, lambda info=info: opened.open(info))


def _tar_members(stream: IO[bytes]) -> Iterator[_Member]:
    bounded = _Bounded(stream)
    with tarfile.open(fileobj=bounded, mode="r:") as opened:
        for info in opened:
            kind = _tar_kind(info)
            if kind in ("file", "folder") and hasattr(tarfile, "data_filter"):
                try:
                    tarfile.data_filter(info, os.curdir)
                except tarfile.FilterError as error:
                    kind = _first_line(error)
            yield _Member(info.name, kind, info.size, lambda info=info: opened.extractfile(info))
    # tarfile takes a header that it cannot read for the end.
    if bounded.last != bytes(_BLOCK):
        raise tarfile.ReadError("it is cut off or garbled")
    # To the end, where gzip compares its checksum; a tar ends with some blocks of zeros.
    for _ in range(SMALL_BYTES // _CHUNK):
        if not stream.read(_CHUNK):
            return
    raise tarfile.ReadError("much follows the end of the tar")


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issparse():
        return "which has holes"
    if info.issym() or info.islnk():
        return f"a link to {info.linkname!r}"
    if info.isdir():
        return "folder"
    return "file" if info.isreg() else "a device"


class _Bounded:
    """A stream for tarfile that never reads much at once, and keeps the last it read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._stream.read(size)
        return self.last


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
