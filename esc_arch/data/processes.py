"""Work on many images in processes of their own.

LMDBs are read there too: reading a damaged one may kill the process that does it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from types import TracebackType
from typing import TypeVar

import cv2

__all__ = ["ProcessKilled", "Processes", "default_jobs"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Items given out for each process, so that it need not wait for the next.
_AHEAD = 4


def default_jobs() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


class ProcessKilled(Exception):
    """A process was killed, as the system does when memory runs out.

    Attributes:
        items: what the processes may have been working on.
    """

    def __init__(self, items: list[object]) -> None:
        super().__init__(f"killed while working on {items}")
        self.items = items


class Processes:
    """Processes; when one is killed, the next work gets new ones.

    They start with the block, rather than beside the thread of a progress bar, which may hold
    a lock at the fork.

    Args:
        jobs: how many.
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
        """Results in the order of the items; few are held at a time.

        Args:
            function: of a module, or a partial of one.

        Raises:
            ProcessKilled: when a process was killed.
            Exception: what ``function`` raises.
        """
        return (result for _, result in self._run(function, items, in_order=True))

    def as_ready(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item]
    ) -> Iterator[tuple[_Item, _Result]]:
        """Items with their results, as these come; otherwise as :meth:`map`."""
        return self._run(function, items, in_order=False)

    def _run(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item], in_order: bool
    ) -> Iterator[tuple[_Item, _Result]]:
        pool = self._start()
        waiting = iter(items)
        running: dict[Future[_Result], _Item] = {}
        try:
            while True:
                for item in islice(waiting, self._jobs * _AHEAD - len(running)):
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                ready = {next(iter(running))}
                if not in_order:
                    ready = wait(running, return_when=FIRST_COMPLETED).done
                for future in [future for future in running if future in ready]:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            self._end()
            # They start in the order in which they were given out.
            raise ProcessKilled(list(islice(running.values(), self._jobs))) from None
        except BaseException:
            self._end()
            raise

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Forked processes need no second for imports. Elsewhere than on Linux a fork of a
            # process with threads is not safe.
            context = get_context("fork" if sys.platform == "linux" else "spawn")
            self._pool = ProcessPoolExecutor(self._jobs, context, _begin)
            with _no_ctrl_c(), _one_opencv_thread():
                self._pool.submit(os.getpid)  # which starts all of them
        return self._pool

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Let a Ctrl-C wait, which half-started threads and processes cannot bear."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
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
    # The parent gets the Ctrl-C too, and lets its workers finish their images.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot end its workers, and the next run must not meet them.
    connection.wait([parent_process().sentinel])
    os._exit(1)
