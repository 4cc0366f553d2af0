"""Source images, checks against an earlier run, and the images that remain to be made."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from esc_arch.data.names import unique_names
from esc_arch.data.prepare.layout import Folder, Settings
from esc_arch.data.prepare.records import Record, State
from esc_arch.data.sub_images import windows
from esc_arch.errors import UserError, listed
from esc_arch.imaging.codecs import find_images
from esc_arch.terminal import say

__all__ = ["Source", "Task", "check_dest", "find_sources", "sizes_in", "unfinished"]

_SUB_IMAGE = re.compile(r"(.*)_s\d{3,}")
_NAMED = 5  # in a message


class Source(NamedTuple):
    """One source image: its file, path below SRC with slashes, size, and time of change."""

    path: Path
    relative: str
    size: int
    mtime_ns: int


class Task(NamedTuple):
    """One image.

    Attributes:
        path: the source.
        name: that of its results.
        mtime_ns: when the source was changed last.
        present: folders with complete files of this image, and the sizes of these.
    """

    path: Path
    name: str
    mtime_ns: int
    present: dict[str, list[int]]


def find_sources(src: Path, dest: Path, settings: Settings) -> dict[str, Source]:
    """The source images by the name that their results have, sorted; see :func:`unique_names`.

    Args:
        src: a folder, searched with all its folders, or one file.
        dest: the folder of results.

    Raises:
        UserError: when there is none, when two differ in the extension alone, or when results
            would be among the sources.
    """
    here, there = src.resolve(), dest.resolve()
    results = {there / folder.path.split("/")[0] for folder in settings.folders()}
    if here in (there, *there.parents) or results & {here, *here.parents}:
        raise UserError(
            f"--dest: expected a folder whose results are not among the sources in {src}; found "
            f"{dest}. Name another one."
        )
    paths = [src] if src.is_file() else find_images(src, say)
    root = src.parent if src.is_file() else src
    below = {path.relative_to(root).as_posix(): path for path in paths}
    names = unique_names(below)
    sources = {name: Source(below[r], r, *_status(below[r])) for r, name in names.items()}
    return dict(sorted(sources.items()))


def _status(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0  # a link to nothing: reading it will say so
    return status.st_size, status.st_mtime_ns


def check_dest(
    dest: Path, earlier: Settings | None, settings: Settings, names: Iterable[str]
) -> None:
    """Check that the content of ``dest`` is of these sources and settings.

    Args:
        earlier: settings of the last run, or None.
        names: of the sources.

    Raises:
        UserError: when it was made with settings that these do not include, or holds images
            that this command did not make or whose source is missing.
    """
    if earlier is not None:
        _check_settings(dest, earlier, settings)
    mine = {folder.path for folder in earlier.folders()} if earlier else set()
    names = set(names)
    strangers = []
    for folder in settings.folders():
        found = sizes_in(dest, folder)
        if folder.path not in mine and found:
            raise UserError(
                f"{dest / folder.path}: expected no files, as this command has not made any there "
                f"yet; found {listed(found, _NAMED)}. Name another --dest."
            )
        others = [file for file in found if _image_of(file, folder) not in names]
        strangers += [f"{folder.path}/{file}" for file in others]
    if strangers:
        raise UserError(
            f"{dest}: expected images of the given sources alone, as BasicSR reads all that are "
            f"there; found {len(strangers)} of others: {listed(strangers, _NAMED)}. Remove them, "
            "or name another --dest."
        )


def _check_settings(dest: Path, earlier: Settings, settings: Settings) -> None:
    wrong = []
    missing = [str(scale) for scale in earlier.scales if scale not in settings.scales]
    if missing:
        wrong.append(f"the scales {' '.join(missing)} too")
    if earlier.lmdb and not settings.lmdb:
        wrong.append("--lmdb")
    if earlier.grid is not None and settings.grid != earlier.grid:
        size, step, thresh, multiple = earlier.grid
        wrong.append(
            f"--sub-image {size} --step {step} --thresh {thresh} with positions in multiples of "
            f"{multiple}, which the scales decide"
        )
    if wrong:
        raise UserError(
            f"{dest}: expected the settings that it was made with: {'; '.join(wrong)}. Use them "
            "again, name another --dest, or remove this one."
        )


def sizes_in(dest: Path, folder: Folder) -> dict[str, int]:
    """The files of a folder of the result and their sizes, sorted; none if it is not there.

    Hidden ones are left out, as BasicSR leaves them out.
    """
    try:
        with os.scandir(dest / folder.path) as entries:
            files = [e for e in entries if e.name[0] != "." and e.is_file()]
            return dict(sorted((e.name, e.stat().st_size) for e in files))
    except FileNotFoundError:
        return {}


def _image_of(file: str, folder: Folder) -> str | None:
    """The name of the image that a file was made of, or None for one of another kind."""
    stem, extension = os.path.splitext(file)
    if extension != ".png":
        return None
    if folder.of_sub_images:
        match = _SUB_IMAGE.fullmatch(stem)
        return match and match[1]
    ending = folder.filename_tmpl.removeprefix("{}")
    return stem.removesuffix(ending) if stem.endswith(ending) else None


def unfinished(
    dest: Path, settings: Settings, sources: dict[str, Source], state: State
) -> Iterator[Task]:
    """The images with a missing file, or with files of another state of the source."""
    present = {folder: sizes_in(dest, folder) for folder in settings.folders()}
    for name, source in sources.items():
        present_of = {}
        if name in state.lines:
            record = Record.from_line(state.lines[name])
            if record[:3] == source[1:]:  # its path, size and time
                present_of = {
                    folder.path: record.outputs[folder.path]
                    for folder in settings.folders()
                    if _is_present(folder, record, settings, present[folder])
                }
        if len(present_of) < len(settings.folders()):
            yield Task(source.path, name, source.mtime_ns, present_of)


def _is_present(folder: Folder, record: Record, settings: Settings, found: dict[str, int]) -> bool:
    sizes = record.outputs.get(folder.path)
    if sizes is None:
        return False
    if (
        settings.grid
        and folder.of_sub_images
        and len(sizes) != len(windows(record.height, record.width, settings.grid))
    ):
        return False
    files = folder.file_names(record.name, len(sizes))
    return all(found.get(file) == size for file, size in zip(files, sizes, strict=True))
