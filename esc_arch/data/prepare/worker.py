"""Makes all files of one image; runs in processes of its own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from esc_arch.data.prepare.records import WORK
from esc_arch.data.prepare.settings import Folder, Settings
from esc_arch.data.sub_images import windows
from esc_arch.errors import UserError
from esc_arch.files import whole_file
from esc_arch.imaging.codecs import decode, encode_png
from esc_arch.imaging.imresize import imresize

__all__ = ["Made", "Skipped", "Task", "make"]


class Task(NamedTuple):
    """One image.

    Attributes:
        path: the source.
        name: the source's name without extension.
        mtime_ns: when the source was changed last.
        there: folders whose files of this image are as they should be, with their sizes.
    """

    path: Path
    name: str
    mtime_ns: int
    there: dict[str, list[int]]


class Made(NamedTuple):
    """An image whose files are all in place; fields as in Record."""

    height: int
    width: int
    outputs: dict[str, list[int]]


class Skipped(NamedTuple):
    """An image that cannot be used."""

    reason: str


def make(task: Task, dest: Path, settings: Settings) -> Made | Skipped:
    """Make and place the files of one image that are not there.

    Raises:
        UserError: when a file cannot be written.
    """
    try:
        content = task.path.read_bytes()
        decoded = decode(content, task.path)
        _check_size(decoded.image, task.path, settings)
    except OSError as error:
        return Skipped(f"{task.path}: expected a readable file; found: {error.strerror}.")
    except UserError as error:
        return Skipped(str(error))
    hr = decoded.image
    lr: dict[int, np.ndarray] = {1: hr}
    outputs = {}
    for folder in settings.folders():
        if folder.path in task.there:
            outputs[folder.path] = task.there[folder.path]
            continue
        if folder.scale not in lr:
            lr[folder.scale] = _shrunk(hr, folder.scale)
        image = lr[folder.scale]
        if folder.of_sub_images:
            files = _sub_images(image, hr.shape, folder.scale, settings)
        elif folder.scale == 1 and decoded.is_stored_so:
            files = iter([content])
        else:
            files = iter([encode_png(image)])
        outputs[folder.path] = _write(files, folder, task, dest)
    return Made(*hr.shape[:2], outputs)


def _check_size(image: np.ndarray, path: Path, settings: Settings) -> None:
    height, width = image.shape[:2]
    if min(height, width) < settings.smallest_side():
        raise UserError(
            f"{path}: expected sides of at least {settings.smallest_side()} pixels for the scales "
            f"{', '.join(map(str, settings.scales))}; found {width}x{height}. Remove this image."
        )


def _shrunk(image: np.ndarray, scale: int) -> np.ndarray:
    height, width = (side - side % scale for side in image.shape[:2])
    return imresize(image[:height, :width], 1 / scale)


def _sub_images(
    image: np.ndarray, hr_shape: tuple[int, ...], scale: int, settings: Settings
) -> Iterator[bytes]:
    for window in windows(*hr_shape[:2], settings.grid):
        yield encode_png(window.cut(image, scale))


def _write(files: Iterator[bytes], folder: Folder, task: Task, dest: Path) -> list[int]:
    """Write files under their final names, each of them whole or not at all."""
    sizes = []
    for index, content in enumerate(files):
        path = dest / folder.path / folder.file_names(task.name, index + 1)[index]
        try:
            # Thousands of files: what a power cut leaves empty is found and made again.
            with whole_file(path, dest / WORK, flush=False) as written:
                written.write_bytes(content)
                # The source's time, as a copy keeps it: an LMDB of these files, which records
                # their times, is then the same after a kill, and made again when a source changes.
                os.utime(written, ns=(task.mtime_ns, task.mtime_ns))
        except OSError as error:
            raise UserError(
                f"{path}: could not write it: {error.strerror}. Mend that, by freeing disk space "
                "if there is none left, and run again; the finished images are kept."
            ) from None
        sizes.append(len(content))
    return sizes
