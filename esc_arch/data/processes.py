"""Work on many images in processes of their own.

LMDBs are read there too: reading a damaged one may kill the process that does it.
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from types import TracebackType
from typing import TypeVar

import cv2

__all__ = ["Processes", "default_jobs", "one_opencv_thread"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Items that are handed to a process ahead of the one it works on.
_AHEAD = 8


def default_jobs() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


class Processes:
    """Forked processes; when one is killed, the next work gets new ones.

    Args:
        jobs: how many.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def map(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item]
    ) -> Iterator[_Result]:
        """Results in the order of the items; few are held at a time.

        Args:
            function: of a module, or a partial of one.

        Raises:
            BrokenProcessPool: when a process was killed.
            Exception: what ``function`` raises.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._jobs, get_context("fork"), _begin)
            with one_opencv_thread():
                self._pool.submit(os.getpid)  # which starts all of them
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) > self._jobs * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Fork in this block: the child keeps to one thread, as there is a process for each core.

    Set in a child of a process whose OpenCV has threads, it would wait for threads that the
    child does not have.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _begin() -> None:
    # Ctrl+C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
