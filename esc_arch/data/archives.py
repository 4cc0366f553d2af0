"""Extracting folders from zip and tar archives whose checksums were compared before."""

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from esc_arch.errors import UserError
from esc_arch.files import flush_folder, free_bytes
from esc_arch.progress import progress

__all__ = ["extract"]

_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,  # also of unsafe names
    RuntimeError,  # of zipfile: encrypted, or compressed in an unknown way
)
_CHUNK = 1 << 20


def extract(archive: str | Path, folders: Mapping[str, Path]) -> None:
    """Extract folders of an archive.

    Each is written to ``.NAME.extracting`` beside its destination and renamed when all of them
    are flushed to disk, so that a destination is complete or absent.

    Args:
        archive: zip or tar, which its content decides; a tar may be compressed.
        folders: the destination of each folder of the archive; none exists yet.

    Raises:
        UserError: when the archive is broken, has a name that leads out of its folder, or lacks
            one of the folders; when a destination exists or cannot be written.
    """
    archive = Path(archive)
    parts = {f: place.with_name(f".{place.name}.extracting") for f, place in folders.items()}
    try:
        _prepare(archive, folders, parts)
        with progress(f"extracting {archive.name}", archive.stat().st_size, "bytes") as advance:
            if tarfile.is_tarfile(archive):
                _take_tar(archive, parts, advance)
            elif zipfile.is_zipfile(archive):
                _take_zip(archive, parts, advance)
            else:
                raise ValueError("a broken one, or another file")
        for folder, place in folders.items():
            part = parts[folder] / folder
            if not part.is_dir():
                raise UserError(
                    f"{archive}: expected files in its folder {folder}; found none. It is another "
                    "archive than was expected: delete it and download it again."
                )
            _flush(part)
            os.rename(part, place)
            flush_folder(place.parent)
    except (*_BROKEN, OSError) as error:
        # gzip's error is an OSError too, and that of bz2 is one without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"{archive}: expected to extract it; found {error.filename or archive}: "
                f"{error.strerror or error}. Correct that and run again."
            ) from error
        raise UserError(
            f"{archive}: expected a complete zip or tar archive of safe names; found: {error}. "
            "Delete it and download it again."
        ) from error
    finally:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)


def _prepare(archive: Path, folders: Mapping[str, Path], parts: Mapping[str, Path]) -> None:
    """Make empty folders to extract to, where there is room."""
    # Images hardly compress.
    needed = archive.stat().st_size
    for folder, place in folders.items():
        if os.path.lexists(place):
            raise UserError(
                f"{place}: expected no such folder yet; found one, which is left as it is. Move "
                "it away to extract the archive."
            )
        if parts[folder].exists():
            shutil.rmtree(parts[folder])  # of a killed run
        parts[folder].mkdir(parents=True)
        free = free_bytes(place.parent)
        if needed > free:
            raise UserError(
                f"{archive}: expected {decimal(needed)} of room for its images in {place.parent}; "
                f"found {decimal(free)}. Make room and run again."
            )


def _part_of(
    name: str, is_file: bool, parts: Mapping[str, Path], files: set[PurePosixPath]
) -> Path | None:
    """The destination of a member of the archive, by its folder.

    Args:
        name: of the member.
        is_file: as opposed to a folder.
        parts: destinations.
        files: those before it, to which it is added.

    Raises:
        ValueError: when the name leads elsewhere or is there twice.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r}, which is outside of its folder")
    if path in files:
        raise ValueError(f"{name!r} twice")
    if is_file:
        files.add(path)
    return next((part for folder, part in parts.items() if path.is_relative_to(folder)), None)


def _take_zip(archive: Path, parts: Mapping[str, Path], advance: Callable[[float], None]) -> None:
    files: set[PurePosixPath] = set()
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if part := _part_of(info.filename, not info.is_dir(), parts, files):
                # The upper half is a Unix mode, when the archive was made there.
                if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise ValueError(f"{info.filename!r}, which is a link or a device")
                opened.extract(info, part)
            advance(info.compress_size)


def _take_tar(archive: Path, parts: Mapping[str, Path], advance: Callable[[float], None]) -> None:
    files: set[PurePosixPath] = set()
    with tarfile.open(archive) as opened:
        for info in opened:
            if part := _part_of(info.name, not info.isdir(), parts, files):
                opened.extract(info, part, filter=_plain)
            advance(info.size)
        # To the end, where a compressed one has its checksum.
        while opened.fileobj and opened.fileobj.read(_CHUNK):
            pass


def _plain(info: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """A member that is safe to extract, with the permissions of a new file."""
    return tarfile.data_filter(info.replace(mode=0o644, deep=False), folder)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
