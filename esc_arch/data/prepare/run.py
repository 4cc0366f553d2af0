"""Preparation of training and test data: HR, LR by MATLAB's bicubic rule, sub-images, LMDBs.

    DEST/HR/NAME.png                       the images, as they are
    DEST/LR_bicubic/X2/NAMEx2.png          without what is over a multiple of the scale
    DEST/HR_X2/NAME.png                    HR without that, to train with, where any has it
    DEST/HR_sub/NAME_s001.png              with sub-images
    DEST/LR_bicubic/X2_sub/NAME_s001.png
    DEST/HR.lmdb, DEST/LR_bicubic/X2.lmdb  with LMDBs: of HR or HR_X2, or of the sub-images
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
from esc_arch.data.names import key_of
from esc_arch.data.prepare.layout import Folder, Settings, option_lines
from esc_arch.data.prepare.records import FINAL, WORK, Journal, Record, final_text, read_state
from esc_arch.data.prepare.tasks import (
    Source,
    Task,
    check_dest,
    find_sources,
    sizes_in,
    unfinished,
)
from esc_arch.data.processes import Processes, ProcessKilled, default_jobs
from esc_arch.data.sub_images import windows
from esc_arch.errors import UserError, listed
from esc_arch.files import Held, locked, read_regular, remedy, whole_file
from esc_arch.imaging.codecs import decode, encode_png
from esc_arch.imaging.imresize import imresize
from esc_arch.progress import progress

__all__ = ["Prepared", "prepare", "summary"]

_COMMIT_INTERVAL_S = 3.0
# Of sources: PyTorch shrinks faster than Pillow, and takes seconds to import.
_MANY_BYTES = 100 * 10**6
_LOCK = ".prepare.lock"
_USUAL_GT_SIZE = 128  # the least of the recipes


_Image = NDArray[np.uint8 | np.uint16]  # (H, W) or (H, W, C)


class Prepared(NamedTuple):
    """Counts of a run.

    Attributes:
        images: prepared by this run and earlier ones.
        new: those that this run made or completed.
        skipped: an error message for each image that could not be used.
        renamed: names by source of those that have not just their own.
        cropped: for each scale the number of HR images that are no multiples of it.
        smallest: the image with the shortest side to train with, its width and height.
        sub_images: windows of all images.
        narrow: images with a side shorter than a window.
        noted: what this run converted or left out, with the number of images.
    """

    images: int
    new: int
    skipped: list[str]
    renamed: dict[str, str]
    cropped: dict[int, int]
    smallest: tuple[str, int, int] | None
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
    records = [Record.from_line(line) for line in lines.values()]
    cropped = {f.scale: sum(map(bool, (r.outputs[f.path] for r in records)))
                for f in settings.crops()}  # fmt: skip
    cropped = {scale: number for scale, number in cropped.items() if number}
    _remove_leftovers(dest, settings, records)
    for folder in settings.crops():
        if folder.scale in cropped:
            _complete(dest, folder, records)
    for folder in settings.packed_folders(cropped):
        if lines:
            write_lmdb(dest / f"{folder.path}.lmdb", list(_entries(dest, folder, records)))
    _finish(dest, final_text(settings, lines))
    sub_images = narrow = 0
    if settings.grid is not None:
        for record in records:
            sub_images += len(record.outputs[Folder(1, True).path])
            narrow += min(record.height, record.width) < settings.grid.size
    most = max(cropped, default=1)
    sides = [(r.source, r.width - r.width % most, r.height - r.height % most) for r in records]
    return Prepared(
        len(lines),
        len(tasks) - len(skipped),
        sorted(skipped),
        {s.relative: name for name, s in sources.items() if s.path.stem != name},
        cropped,
        min(sides, key=lambda side: min(side[1:]), default=None),
        sub_images,
        narrow,
        noted,
    )


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
        if not folder.of_crops:
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
                    record = Record(
                        *sources[task.name][1:],
                        result.height,
                        result.width,
                        result.outputs,
                        name=task.name,
                    )
                    lines[task.name] = record.line()
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
    return skipped


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
    files: Iterator[bytes]
    for folder in settings.folders():
        if folder.path in task.present:
            outputs[folder.path] = task.present[folder.path]
            continue
        if folder.of_crops:
            cut = _multiple(hr, folder.scale)
            files = iter([encode_png(cut)] if cut.shape != hr.shape else [])
            outputs[folder.path] = _write_files(files, folder, task, dest)
            continue
        if folder.scale not in lr:
            lr[folder.scale] = imresize(_multiple(hr, folder.scale), 1 / folder.scale)
        image = lr[folder.scale]
        if folder.of_sub_images and settings.grid:
            parts = (w.cut(image, folder.scale) for w in windows(height, width, settings.grid))
            files = map(encode_png, parts)
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


def _multiple(image: _Image, scale: int) -> _Image:
    height, width = (side - side % scale for side in image.shape[:2])
    return image[:height, :width]


def _write_files(files: Iterator[bytes], folder: Folder, task: Task, dest: Path) -> list[int]:
    """Write files, each complete or not at all; their sizes."""
    sizes = []
    for index, content in enumerate(files):
        path = dest / folder.path / folder.file_names(task.name, index + 1)[index]
        try:
            path.parent.mkdir(exist_ok=True)
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


def _remove_leftovers(dest: Path, settings: Settings, records: list[Record]) -> None:
    """Remove files of images that are skipped now, or had more files before."""
    for folder in {*settings.folders(), *settings._replace(grid=None).crops()}:
        left = set(sizes_in(dest, folder))
        crops = [r for r in records if r.outputs.get(folder.path)]
        # With one crop the folder has all images.
        for record in records if not folder.of_crops or crops else ():
            left.difference_update(folder.file_names(record.name, _count(record, folder)))
        for file in left:
            (dest / folder.path / file).unlink()
        if folder.of_crops and not crops and (dest / folder.path).is_dir():
            (dest / folder.path).rmdir()


def _count(record: Record, folder: Folder) -> int:
    return 1 if folder.of_crops else len(record.outputs[folder.path])


def _complete(dest: Path, folder: Folder, records: list[Record]) -> None:
    """Put the HR images that need no crop beside the crops, by links where these can be made."""
    for record in records:
        if record.outputs[folder.path]:
            continue
        (file,) = folder.file_names(record.name, 1)
        whole, path = dest / Folder(1, False).path / file, dest / folder.path / file
        if path.exists() and _size_and_time(path) == _size_and_time(whole):
            continue
        (dest / WORK).mkdir(exist_ok=True)
        with whole_file(path, dest / WORK, flush=False) as made:
            made.unlink(missing_ok=True)
            try:
                os.link(whole, made)
            except OSError:
                shutil.copy2(whole, made)


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _entries(dest: Path, folder: Folder, records: list[Record]) -> Iterator[Entry]:
    for record in sorted(records, key=lambda record: record.name):
        name, count = record.name, _count(record, folder)
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
        made += f", {len(settings.packed_folders(done.cropped))} LMDBs"
    if done.images and not done.new and not done.skipped:
        made += "; all was there already"
    if done.skipped:
        made += f"; {len(done.skipped)} skipped"
    lines = [f"{dest}: {made}."]
    lines += [f"note: {count} images: {note}." for note, count in done.noted.items()]
    if done.renamed:
        first, name = next(iter(done.renamed.items()))
        lines.append(
            f"{len(done.renamed)} with the folder in the name, as names meet, or a digest, where "
            f"they are too long: {name} for {first}."
        )
    if done.cropped:
        folders = listed(Folder(scale, False, True).path for scale in done.cropped)
        numbers = listed(f"{number} images at x{scale}" for scale, number in done.cropped.items())
        lines.append(
            f"Training needs HR sides that are multiples of the scale, which {numbers} are not. "
            f"{folders}: cropped at the right and bottom, to train with. HR: the originals, to "
            "test with."
        )
    if done.narrow and settings.grid:
        lines.append(
            f"Images with a side shorter than {settings.grid.size}, whose sub-images are smaller: "
            f"{done.narrow}. Training needs a gt_size that fits in them."
        )
    elif done.smallest and settings.grid is None and min(done.smallest[1:]) < _USUAL_GT_SIZE:
        source, width, height = done.smallest
        lines.append(
            f"Training needs a gt_size of at most {min(width, height)}, for the smallest image: "
            f"{source}, {width}x{height}."
        )
    if done.images:
        lines.append("\nFor an option file:")
        lines += option_lines(dest, settings, done.cropped)
    return "\n".join(lines)
