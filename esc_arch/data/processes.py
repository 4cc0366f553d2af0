"""A pool of processes for work on many images.

LMDBs are read there too: a damaged one may kill the process that reads it.
"""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from types import TracebackType
from typing import TypeVar

import cv2

__all__ = ["ProcessKilled", "Processes", "default_jobs"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Items submitted for each process, so that it need not wait for the next.
_AHEAD = 4


def default_jobs() -> int:
    """Number of CPUs that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ProcessKilled(Exception):
    """A process was killed, as the system does when memory runs out.

    Attributes:
        items: those in work.
    """

    def __init__(self, items: Sequence[object]) -> None:
        super().__init__(f"killed while working on {items}")
        self.items = items


class Processes:
    """A pool that starts and ends with a block; after a killed process it starts again.

    With the block, as a progress bar has a thread, which may hold a lock at a fork.

    Args:
        jobs: number of processes.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Processes":
        self._start()
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
        """Results in the order of the items; few are in memory at a time.

        Args:
            function: of a module, or a partial of one.

        Raises:
            ProcessKilled: when a process was killed.
            Exception: any of ``function``.
        """
        pool = self._start()
        waiting = iter(items)
        running: deque[tuple[Future[_Result], _Item]] = deque()
        try:
            while True:
                for item in islice(waiting, self._jobs * _AHEAD - len(running)):
                    running.append((pool.submit(function, item), item))
                if not running:
                    return
                yield running[0][0].result()
                running.popleft()
        except BrokenProcessPool:
            self._end()
            lost = (i for f, i in running if isinstance(f.exception(), BrokenProcessPool))
            # They start in the order of submission.
            raise ProcessKilled(list(islice(lost, self._jobs))) from None
        except BaseException:
            self._end()
            raise

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Forked processes need no second for imports. Elsewhere than on Linux a fork of a
            # process with threads is not safe.
            context = get_context("fork" if sys.platform == "linux" else "spawn")
            self._pool = ProcessPoolExecutor(self._jobs, context, _begin)
            with _safe_start():
                self._pool.submit(os.getpid)  # which starts all of them
        return self._pool

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@contextmanager
def _safe_start() -> Iterator[None]:
    """Start processes in this block.

    Ctrl-C waits, as half-started threads and processes do not survive it.  OpenCV has one thread
    until the end of the block: a child that changes that would wait for threads which a fork does
    not copy.
    """
    mask = getattr(signal, "pthread_sigmask", None)  # not on Windows
    blocked = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else None
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        if mask:
            mask(signal.SIG_SETMASK, blocked)


def _begin() -> None:
    # The parent gets the Ctrl-C too, and lets its processes finish their images.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":  # a forked process has the one thread of its parent
        cv2.setNumThreads(1)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot end its processes, and they would disturb the next run.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
