"""Enlarges many image files; the network never waits for a file.

One thread reads ahead, the calling thread computes, one thread encodes and writes.  Few images
wait on each side, so that a folder of any length takes the same memory.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from esc_arch.errors import UserError, first_line
from esc_arch.files import remedy
from esc_arch.imaging.picture import Encoding, Picture, check_size, read_picture, write_picture
from esc_arch.progress import Progress
from esc_arch.upscale.planning import Job

if TYPE_CHECKING:
    import numpy as np

    from esc_arch.upscale.upscaler import Upscaler

__all__ = ["Outcome", "upscale_files"]

# Images that are read before they are needed.
_AHEAD = 2
# Of results that wait to be written.
_WAITING_BYTES = 1 << 28
# After these no further file can be written either.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass
class Outcome:
    """Results of a run over files.

    Attributes:
        written: targets, in order.
        failed: sources that could not be enlarged.
        network_s: seconds of computing.
    """

    written: list[Path] = field(default_factory=list)
    failed: list[Path] = field(default_factory=list)
    network_s: float = 0.0


def upscale_files(
    jobs: Sequence[Job],
    upscaler: Upscaler,
    *,
    quality: int = 95,
    lossless: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None],
    progress: Progress,
    outcome: Outcome,
) -> None:
    """Enlarge image files.

    A file that cannot be read, computed or written is named, and the others go on.  When an
    exception ends it, Ctrl-C among them, what is being written is finished, and nothing half
    done is left.

    Args:
        jobs: files to read and to write.
        upscaler: the network.
        quality, lossless: see :class:`esc_arch.imaging.picture.Encoding`.
        overwrite: replace files that are there.
        say: takes lines for the user.
        progress: in images.
        outcome: is filled, so that it is right after an exception too.

    Raises:
        UserError: when no room is left to write to.
    """
    reading, writing = ThreadPoolExecutor(1, "reading"), ThreadPoolExecutor(1, "writing")
    waiting: deque[_Written] = deque()
    said: set[str] = set()

    def fail(job: Job, reason: str) -> None:
        outcome.failed.append(job.source)
        name = str(job.source)
        say(f"failed: {reason if reason.startswith(name) else f'{name}: {reason}'}")

    def collect() -> None:
        job, future, _ = waiting[0]
        try:
            notes = future.result()
        except UserError as error:
            fail(job, str(error))
        except OSError as error:
            reason = f"expected to write {job.target}; found: {error.strerror or error}."
            if error.errno in _NO_ROOM:
                raise UserError(
                    f"{job.source}: {reason} {remedy(error)} Run it with --skip-existing then."
                ) from None
            fail(job, f"{reason} {remedy(error)}")
        except Exception as error:
            fail(job, f"expected to write {job.target}; found {_described(error)}")
        else:
            for note in notes:
                say(f"note: {job.target}: {note}")
        waiting.popleft()

    def write(job: Job, picture: Picture, encoding: Encoding) -> list[str]:
        notes = write_picture(job.target, picture, encoding, overwrite)
        # Here, so that the count is right whenever Ctrl-C comes.
        outcome.written.append(job.target)
        return notes

    picture: Picture | None
    larger: np.ndarray | None
    try:
        for job, future in _ahead(jobs, reading):
            part = progress.part()
            try:
                picture = future.result()
                for note in picture.notes:
                    if note not in said:
                        said.add(note)
                        say(f"note: {job.source}: {note}; the same of others is not said again")
                encoding = Encoding(job.format, quality, lossless)
                height, width = picture.pixels.shape[:2]
                size = upscaler.size(height, width)
                channel_bytes = picture.pixels.nbytes // (height * width)
                check_size(job.target, job.format, size[1], size[0], channel_bytes)
                start = time.perf_counter()
                larger = upscaler(picture.pixels, part)
                outcome.network_s += time.perf_counter() - start
            except UserError as error:
                fail(job, str(error))
            except Exception as error:
                # Too little memory, an image too small for the network, ...: the others go on.
                fail(job, f"expected to enlarge it; found {_described(error)}")
            else:
                picture = Picture(larger, picture.metadata)
                written = writing.submit(write, job, picture, encoding)
                waiting.append(_Written(job, written, larger.nbytes))
            picture = larger = None  # the next one may need the memory
            part.finish()
            while waiting and (
                waiting[0].future.done() or sum(each.size for each in waiting) > _WAITING_BYTES
            ):
                collect()
        while waiting:
            collect()
    finally:
        _finish(writing, [each.future for each in waiting])
        reading.shutdown(wait=True, cancel_futures=True)


def _finish(writing: ThreadPoolExecutor, submitted: Sequence[Future[list[str]]]) -> None:
    """Finish what is begun, as Python waits for it in any case: a second Ctrl-C ends nothing."""
    while True:
        try:
            for future in submitted:
                future.cancel()
            # One thread does all in order.  Python's shutdown forgets one when Ctrl-C comes.
            writing.submit(int).result()
            break
        except KeyboardInterrupt:
            continue
    writing.shutdown(wait=True)


class _Written(NamedTuple):
    """An image that is being written, or waits for it; its size is in bytes."""

    job: Job
    future: Future[list[str]]
    size: int


def _ahead(
    jobs: Sequence[Job], reading: ThreadPoolExecutor
) -> Iterator[tuple[Job, Future[Picture]]]:
    """Each job with its picture, while the next ones are being read."""
    begun: deque[tuple[Job, Future[Picture]]] = deque()
    for job in jobs:
        begun.append((job, reading.submit(read_picture, job.source)))
        if len(begun) > _AHEAD:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}."
