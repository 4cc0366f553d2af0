"""Preparation of training and test data: HR, LR by MATLAB's bicubic rule, sub-images, LMDBs.

    DEST/HR/NAME.png                       the images, as they are
    DEST/LR_bicubic/X2/NAMEx2.png          without what is over a multiple of the scale
    DEST/HR_sub/NAME_s001.png              with sub-images
    DEST/LR_bicubic/X2_sub/NAME_s001.png
    DEST/HR.lmdb, DEST/LR_bicubic/X2.lmdb  with LMDBs, or HR_sub.lmdb and X2_sub.lmdb
    DEST/prepared.jsonl                    sources and results, once all are complete

A file gets its final name when it is complete.  A journal in DEST/.prepare records which images
are done and on the disk, so that a killed run resumes.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from esc_arch.data.lmdb_writer import Entry, write_lmdb
from esc_arch.data.prepare.layout import Folder, Settings, option_lines
from esc_arch.data.prepare.records import FINAL, WORK, Journal, Record, final_text, read_state
from esc_arch.data.prepare.tasks import (
    Source,
    Task,
    check_dest,
    find_sources,
    key_of,
    sizes_in,
    unfinished,
)
from esc_arch.data.processes import Processes, ProcessKilled, default_jobs
from esc_arch.data.sub_images import windows
from esc_arch.errors import UserError
from esc_arch.files import Held, locked, read_regular, remedy, whole_file
from esc_arch.imaging.codecs import decode, encode_png
from esc_arch.imaging.imresize import imresize
from esc_arch.progress import progress

__all__ = ["Prepared", "prepare", "summary"]

_COMMIT_INTERVAL_S = 3.0
# Of sources: PyTorch shrinks faster than Pillow, and takes seconds to import.
_MANY_BYTES = 100 * 10**6
_LOCK = ".prepare.lock"


_Image = NDArray[np.uint8 | np.uint16]  # (H, W) or (H, W, C)


class Prepared(NamedTuple):
    """Counts of a run.

    Attributes:
        images: prepared by this run and earlier ones.
        new: those that this run made or completed.
        skipped: an error message for each image that could not be used.
        sub_images: windows of all images.
        narrow: images with a side shorter than a window.
        noted: what this run converted or left out, with the number of images.
    """

    images: int
    new: int
    skipped: list[str]
    sub_images: int
    narrow: int
    noted: Mapping[str, int]


def prepare(
    src: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    settings: Settings,
    jobs: int | None = None,
    strict: bool = False,
) -> Prepared:
    """Prepare all images of a folder, or resume an earlier run.

    Args:
        src: a folder, searched with all its folders, or one image.
        dest: the folder of results.
        settings: see :func:`esc_arch.data.prepare.settings`.
        jobs: number of processes; None for one on each core.
        strict: whether to stop at the first image that cannot be used.

    Raises:
        UserError: when the arguments do not fit each other or the content of ``dest``, when a
            file cannot be written, when a process was killed, and for a bad image if strict.
    """
    dest = Path(dest)
    sources = find_sources(Path(src), dest, settings)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        with locked(dest / _LOCK, remove=True):
            return _prepare(sources, dest, settings, jobs or default_jobs(), strict)
    except Held as held:
        raise UserError(
            f"{dest}: expected no other run there; found one that is at work{held.holder}. Wait "
            "for its end."
        ) from None
    except OSError as error:
        raise UserError(
            f"{error.filename or dest}: expected to write results in {dest}; found: "
            f"{error.strerror}. Name another --dest, or correct that and run again."
        ) from None


def _prepare(
    sources: dict[str, Source], dest: Path, settings: Settings, jobs: int, strict: bool
) -> Prepared:
    state = read_state(dest)
    check_dest(dest, state.settings, settings, sources)
    tasks = list(unfinished(dest, settings, sources, state))
    lines = {name: line for name, line in state.lines.items() if name in sources}
    for task in tasks:
        lines.pop(task.name, None)
    skipped: list[str] = []
    noted: Counter[str] = Counter()
    if tasks:
        skipped = _make(tasks, sources, lines, noted, dest, settings, jobs, strict)
    _remove_leftovers(dest, settings, lines)
    for folder in settings.packed_folders():
        if lines:
            write_lmdb(dest / f"{folder.path}.lmdb", list(_entries(dest, folder, lines)))
    _finish(dest, final_text(settings, lines))
    sub_images = narrow = 0
    if settings.grid is not None:
        for line in lines.values():
            record = Record.from_line(line)
            sub_images += len(record.outputs[Folder(1, True).path])
            narrow += min(record.height, record.width) < settings.grid.size
    return Prepared(len(lines), len(tasks) - len(skipped), skipped, sub_images, narrow, noted)


def _make(
    tasks: list[Task],
    sources: dict[str, Source],
    lines: dict[str, str],
    noted: Counter[str],
    dest: Path,
    settings: Settings,
    jobs: int,
    strict: bool,
) -> list[str]:
    """Do the tasks, add their records to ``lines``, and count their notes in ``noted``.

    Returns:
        Error messages of the images that are skipped.
    """
    work = dest / WORK
    work.mkdir(exist_ok=True)
    for path in work.glob("*.png"):
        path.unlink()  # half of a file that a killed run was writing
    for folder in settings.folders():
        (dest / folder.path).mkdir(parents=True, exist_ok=True)
    journal = Journal(dest, settings)
    skipped: list[str] = []
    if sum(sources[task.name].size for task in tasks) > _MANY_BYTES:
        import torch  # noqa: F401  (its presence decides how images are shrunk)
    try:
        with (
            Processes(min(jobs, len(tasks))) as processes,
            progress(
                "preparing images", total=len(sources), done=len(sources) - len(tasks)
            ) as advance,
        ):
            committed = time.monotonic()

            def add(task: Task, result: _Made | _Skipped) -> None:
                nonlocal committed
                if isinstance(result, _Skipped):
                    skipped.append(result.reason)
                    # Once, as results come also while the work ends.
                    if strict and len(skipped) == 1:
                        raise UserError(result.reason)
                else:
                    source = sources[task.name]
                    made = Record(*source[1:], result.height, result.width, result.outputs)
                    lines[task.name] = made.line()
                    noted.update(result.notes)
                    journal.add(lines[task.name])
                advance(1)
                if time.monotonic() - committed > _COMMIT_INTERVAL_S:
                    journal.commit()
                    committed = time.monotonic()

            processes.for_each(partial(_make_files, dest=dest, settings=settings), tasks, add)
    except ProcessKilled as error:
        paths = [str(task.path) for task in error.items if isinstance(task, Task)]
        raise UserError(
            "expected the processes to live until the end; found one killed, as the system does "
            f"when memory runs out. In work: {', '.join(paths)}. Run "
            "again to resume, with fewer --jobs for less memory."
        ) from None
    finally:
        # Finished images stay, whatever ended the loop.
        journal.close()
    return sorted(skipped)


class _Made(NamedTuple):
    """An image whose files are complete; fields as in Record, and the decoder's notes."""

    height: int
    width: int
    outputs: dict[str, list[int]]
    notes: tuple[str, ...]


class _Skipped(NamedTuple):
    """An image that cannot be used."""

    reason: str


def _make_files(task: Task, dest: Path, settings: Settings) -> _Made | _Skipped:
    """Write the missing files of one image; runs in a process of its own.

    Raises:
        UserError: when a file cannot be written.
    """
    try:
        content = read_regular(task.path)
        decoded = decode(content, task.path)
        _check_size(decoded.image, task.path, settings)
    except OSError as error:
        return _Skipped(f"{task.path}: expected a readable file; found: {error.strerror}.")
    except UserError as error:
        return _Skipped(str(error))
    hr = decoded.image
    height, width = hr.shape[:2]
    lr: dict[int, _Image] = {1: hr}
    outputs = {}
    for folder in settings.folders():
        if folder.path in task.present:
            outputs[folder.path] = task.present[folder.path]
            continue
        if folder.scale not in lr:
            lr[folder.scale] = _shrunk(hr, folder.scale)
        image = lr[folder.scale]
        if folder.of_sub_images and settings.grid:
            parts = (w.cut(image, folder.scale) for w in windows(height, width, settings.grid))
            files: Iterator[bytes] = map(encode_png, parts)
        elif folder.scale == 1 and decoded.is_stored_so:
            files = iter([content])
        else:
            files = iter([encode_png(image)])
        outputs[folder.path] = _write_files(files, folder, task, dest)
    return _Made(height, width, outputs, decoded.notes)


def _check_size(image: _Image, path: Path, settings: Settings) -> None:
    height, width = image.shape[:2]
    if min(height, width) < settings.smallest_side():
        raise UserError(
            f"{path}: expected sides of at least {settings.smallest_side()} pixels for the scales "
            f"{', '.join(map(str, settings.scales))}; found {width}x{height}. Remove this image."
        )


def _shrunk(image: _Image, scale: int) -> _Image:
    height, width = (side - side % scale for side in image.shape[:2])
    return imresize(image[:height, :width], 1 / scale)


def _write_files(files: Iterator[bytes], folder: Folder, task: Task, dest: Path) -> list[int]:
    """Write files, each complete or not at all; their sizes."""
    sizes = []
    for index, content in enumerate(files):
        path = dest / folder.path / folder.file_names(task.name, index + 1)[index]
        try:
            # Thousands of files: one that a power cut leaves empty is found and made again.
            with whole_file(path, dest / WORK, flush=False) as written:
                written.write_bytes(content)
                # The source's time, as a copy keeps it: an LMDB of these files, which records
                # their times, is then the same after a kill, and made again when a source changes.
                os.utime(written, ns=(task.mtime_ns, task.mtime_ns))
        except OSError as error:
            raise UserError(
                f"{path}: could not write it: {error.strerror}. {remedy(error)} Then run again; "
                "the finished images are kept."
            ) from None
        sizes.append(len(content))
    return sizes


def _remove_leftovers(dest: Path, settings: Settings, lines: dict[str, str]) -> None:
    """Remove files of images that are skipped now, or had more sub-images before."""
    for folder in settings.folders():
        left = set(sizes_in(dest, folder))
        for line in lines.values():
            record = Record.from_line(line)
            left.difference_update(folder.file_names(record.name, len(record.outputs[folder.path])))
        for file in left:
            (dest / folder.path / file).unlink()


def _entries(dest: Path, folder: Folder, lines: dict[str, str]) -> Iterator[Entry]:
    for name in sorted(lines):
        count = len(Record.from_line(lines[name]).outputs[folder.path])
        pairs = zip(folder.pair_names(name, count), folder.file_names(name, count), strict=True)
        for pair_name, file in pairs:
            yield Entry(key_of(pair_name), dest / folder.path / file)


def _finish(dest: Path, text: str) -> None:
    """Write the record of the whole run, and remove the files of an unfinished one."""
    final, work = dest / FINAL, dest / WORK
    if not final.exists() or final.read_text("ascii") != text:
        work.mkdir(exist_ok=True)
        with whole_file(final, work) as written:
            written.write_text(text, encoding="ascii")
    shutil.rmtree(work, ignore_errors=True)


def summary(done: Prepared, dest: Path, settings: Settings) -> str:
    """A few lines about a run, and the option-file lines of each scale."""
    made = f"{done.images} images"
    if settings.grid is not None:
        made += f", {done.sub_images} sub-images"
    if settings.lmdb and done.images:
        made += f", {len(settings.packed_folders())} LMDBs"
    if done.images and not done.new and not done.skipped:
        made += "; all was there already"
    if done.skipped:
        made += f"; {len(done.skipped)} skipped"
    lines = [f"{dest}: {made}."]
    lines += [f"note: {count} images: {note}." for note, count in done.noted.items()]
    if done.narrow and settings.grid:
        lines.append(
            f"Images with a side shorter than {settings.grid.size}, whose sub-images are smaller: "
            f"{done.narrow}. Training needs a gt_size that fits in them."
        )
    if done.images:
        lines.append("\nFor an option file:")
        lines += option_lines(dest, settings)
    return "\n".join(lines)
