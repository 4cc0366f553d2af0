"""Extracting folders from zip and tar archives whose checksums were compared before."""

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

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
    EOFError,
    ValueError,
    RuntimeError,  # of zipfile: encrypted, or compressed in an unknown way
)


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
            take = _take_tar if tarfile.is_tarfile(archive) else _take_zip
            take(archive, parts, advance)
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
    except _BROKEN as error:
        raise UserError(
            f"{archive}: expected a complete zip or tar archive of safe names; found: {error}. "
            "Delete it and download it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{archive}: expected to extract it; found {error.filename or archive}: "
            f"{error.strerror or error}. Correct that and run again."
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


def _part_of(name: str, parts: Mapping[str, Path]) -> Path | None:
    """The destination of a member of the archive, by its folder."""
    name = name.removeprefix("./")
    return next((part for folder, part in parts.items() if name.startswith(f"{folder}/")), None)


def _take_zip(archive: Path, parts: Mapping[str, Path], advance: Callable[[float], None]) -> None:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if part := _part_of(info.filename, parts):
                opened.extract(info, part)  # without a drive, a leading slash and ".."
            advance(info.compress_size)


def _take_tar(archive: Path, parts: Mapping[str, Path], advance: Callable[[float], None]) -> None:
    with tarfile.open(archive) as opened:
        for info in opened:
            if part := _part_of(info.name, parts):
                opened.extract(info, part, filter="data")
            advance(info.size)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
