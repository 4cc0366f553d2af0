"""Prepares training and test data: HR, LR by MATLAB's bicubic rule, sub-images, LMDBs.

    DEST/HR/NAME.png                       the images, as they are
    DEST/LR_bicubic/X2/NAMEx2.png          without what is over a multiple of the scale
    DEST/HR_sub/NAME_s001.png              with sub-images
    DEST/LR_bicubic/X2_sub/NAME_s001.png
    DEST/HR.lmdb, DEST/LR_bicubic/X2.lmdb  with LMDBs, or HR_sub.lmdb and X2_sub.lmdb
    DEST/prepared.jsonl                    what was made of what, once all is there

Files get their final names whole.  A journal in DEST/.prepare says which images are done and
on the disk, so a killed run goes on where it was.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from esc_arch.data.lmdb_writer import Entry, write_lmdb
from esc_arch.data.prepare.plan import (
    Source,
    check_dest,
    find_sources,
    key_of,
    sizes_in,
    unfinished,
)
from esc_arch.data.prepare.records import FINAL, WORK, Journal, Record, final_text, read_state
from esc_arch.data.prepare.settings import Folder, Settings
from esc_arch.data.prepare.worker import Skipped, Task, make
from esc_arch.data.processes import Processes, ProcessKilled, default_jobs
from esc_arch.errors import UserError
from esc_arch.files import whole_file
from esc_arch.progress import progress

__all__ = ["Prepared", "prepare"]

_COMMIT_INTERVAL_S = 3.0
# Of sources: PyTorch shrinks faster than Pillow, and takes seconds to import.
_MANY_BYTES = 100 * 10**6
# A killed run's processes take a moment to notice.
_LOCK_PATIENCE_S = 3.0


class Prepared(NamedTuple):
    """What a run has done.

    Attributes:
        images: how many are prepared now, by this run and earlier ones.
        new: how many of them this run made, or completed.
        skipped: for each image that could not be used, what was wrong.
        sub_images: windows of all images.
        narrow: images with a side shorter than a window.
    """

    images: int
    new: int
    skipped: list[str]
    sub_images: int
    narrow: int


def prepare(
    src: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    settings: Settings,
    jobs: int | None = None,
    strict: bool = False,
) -> Prepared:
    """Prepare all images of a folder, or go on with that.

    Args:
        src: a folder, searched with all its folders, or one image.
        dest: the folder of results.
        settings: see :func:`esc_arch.data.prepare.settings.settings`.
        jobs: number of processes; None for one on each core.
        strict: whether to stop at the first image that cannot be used.

    Raises:
        UserError: when the arguments do not fit each other or what ``dest`` holds, when a
            file cannot be written, when a process was killed, and for a bad image if strict.
    """
    dest = Path(dest)
    sources = find_sources(Path(src), dest, settings)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        with _locked(dest):
            return _prepare(sources, dest, settings, jobs or default_jobs(), strict)
    except OSError as error:
        raise UserError(
            f"{error.filename or dest}: expected to write results in {dest}; found: "
            f"{error.strerror}. Name another --dest, or mend that and run again."
        ) from None


@contextmanager
def _locked(dest: Path) -> Iterator[None]:
    handle = os.open(dest, os.O_RDONLY)
    patience = time.monotonic() + _LOCK_PATIENCE_S
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > patience:
                    raise UserError(
                        f"{dest}: expected no other run there; found one that is at work. Wait "
                        "for its end."
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)


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
    if tasks:
        skipped = _make(tasks, sources, lines, dest, settings, jobs, strict)
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
    return Prepared(len(lines), len(tasks) - len(skipped), skipped, sub_images, narrow)


def _make(
    tasks: list[Task],
    sources: dict[str, Source],
    lines: dict[str, str],
    dest: Path,
    settings: Settings,
    jobs: int,
    strict: bool,
) -> list[str]:
    """Do the tasks and add their records to ``lines``.

    Returns:
        What was wrong with the images that are skipped.
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
            made = partial(make, dest=dest, settings=settings)
            for task, result in processes.as_ready(made, tasks):
                if isinstance(result, Skipped):
                    if strict:
                        raise UserError(result.reason)
                    skipped.append(result.reason)
                else:
                    lines[task.name] = Record(*sources[task.name][1:], *result).line()
                    journal.add(lines[task.name])
                advance(1)
                if time.monotonic() - committed > _COMMIT_INTERVAL_S:
                    journal.commit()
                    committed = time.monotonic()
    except ProcessKilled as error:
        raise UserError(
            "expected the processes to live until the end; found one killed, as the system does "
            f"when memory runs out. In work: {', '.join(str(t.path) for t in error.items)}. Run "
            "again to go on from here, with fewer --jobs for less memory."
        ) from None
    finally:
        # What is finished stays so, whatever ended the loop.
        journal.close()
    return sorted(skipped)


def _remove_leftovers(dest: Path, settings: Settings, lines: dict[str, str]) -> None:
    """Remove files of images that are skipped now, or have fewer sub-images than once."""
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
    """Write the record of the whole run, and remove what only an unfinished one needs."""
    final, work = dest / FINAL, dest / WORK
    if not final.exists() or final.read_text("ascii") != text:
        work.mkdir(exist_ok=True)
        with whole_file(final, work) as written:
            written.write_text(text, encoding="ascii")
    shutil.rmtree(work, ignore_errors=True)
