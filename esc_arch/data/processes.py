"""A pool of processes for work on many images.

LMDBs are read there too: a damaged one may kill the process that reads it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import active_children, get_context, parent_process
from types import TracebackType
from typing import TypeVar

import cv2

from esc_arch.errors import UserError

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
            UserError: when the system starts no process.
            Exception: any of ``function``.
        """
        waiting = iter(items)
        running: dict[Future[_Result], _Item] = {}
        with self._at_work(running) as pool:
            while self._submit(pool, function, waiting, running):
                first = next(iter(running))
                yield first.result()
                del running[first]

    def for_each(
        self,
        function: Callable[[_Item], _Result],
        items: Iterable[_Item],
        use: Callable[[_Item, _Result], object],
    ) -> None:
        """Call ``use`` with each item and its result as soon as that is ready, in any order.

        However the work ends, it is called with all results that are complete by then; a second
        time with one at which it raised an error.

        Args:
            function: of a module, or a partial of one.
            use: called in this thread.

        Raises:
            ProcessKilled: when a process was killed.
            Exception: any of ``function`` and ``use``.
        """
        waiting = iter(items)
        running: dict[Future[_Result], _Item] = {}
        try:
            with self._at_work(running) as pool:
                while self._submit(pool, function, waiting, running):
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        use(running[future], future.result())
                        del running[future]
        except BaseException:
            for future, item in running.items():
                if future.done() and not future.cancelled() and future.exception() is None:
                    use(item, future.result())
            raise

    def _submit(
        self,
        pool: ProcessPoolExecutor,
        function: Callable[[_Item], _Result],
        waiting: Iterator[_Item],
        running: dict[Future[_Result], _Item],
    ) -> bool:
        """Submit a few more items; whether any is at work."""
        for item in islice(waiting, self._jobs * _AHEAD - len(running)):
            running[pool.submit(function, item)] = item
        return bool(running)

    @contextmanager
    def _at_work(self, running: Mapping[Future[_Result], _Item]) -> Iterator[ProcessPoolExecutor]:
        """The pool; an error in the block ends it, once the images in work are done."""
        try:
            yield self._start()
        except BrokenProcessPool:
            self._end()
            lost = (
                item
                for future, item in running.items()
                if isinstance(future.exception(), BrokenProcessPool)
            )
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
            others = active_children()
            try:
                pool = ProcessPoolExecutor(self._jobs, context, _begin)
                with _safe_start():
                    pool.submit(os.getpid)  # which starts all of them
            except OSError as error:
                # Those that were started would wait for work, and this process for their end.
                for process in set(active_children()).difference(others):
                    process.terminate()
                raise UserError(
                    f"--jobs: expected to start {self._jobs} processes; found: {error.strerror}. "
                    "Use fewer --jobs, or raise the limit (ulimit -n, ulimit -u)."
                ) from None
            self._pool = pool
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
