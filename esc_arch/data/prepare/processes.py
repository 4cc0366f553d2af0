"""Work on many images in several processes, a few images ahead, in no order.

A process that is killed is told with the images it may have died of.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, TypeVar

from esc_arch.data.processes import one_opencv_thread
from esc_arch.errors import UserError

__all__ = ["processes"]

# Images given out for each process: it need not wait for the next, and few are named when it
# dies.
_AHEAD = 3


class HasPath(Protocol):
    @property
    def path(self) -> os.PathLike[str]: ...


Task = TypeVar("Task", bound=HasPath)
Result = TypeVar("Result")
Run = Callable[[Callable[[Task], Result], Iterable[Task]], Iterator[tuple[Task, Result]]]


@contextmanager
def processes(jobs: int, initializer: Callable[[], None]) -> Iterator[Run]:
    """Start processes.

    Yields:
        A function of (function, tasks): it gives each task with the function's result, in the
        order in which they are ready.  It raises what the function raises, and UserError when
        a process was killed.
    """
    # Forked processes need no second for importing torch.  On Linux that is safe: nothing has
    # used torch's threads yet, and the children use one thread each.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer)
    try:
        # The first task starts all of them, here rather than beside the thread of a progress
        # bar, which may hold a lock at the fork.
        with _no_ctrl_c(), one_opencv_thread():
            pool.submit(os.getpid)
        yield lambda function, tasks: _results(pool, jobs, function, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Let a Ctrl-C wait, which half-started threads and processes cannot bear."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _results(
    pool: ProcessPoolExecutor,
    jobs: int,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
) -> Iterator[tuple[Task, Result]]:
    waiting = iter(tasks)
    running: dict[Future[Result], Task] = {}
    while True:
        try:
            for task in islice(waiting, jobs * _AHEAD - len(running)):
                running[pool.submit(function, task)] = task
            if not running:
                return
            done = wait(running, return_when=FIRST_COMPLETED).done
            for future in [future for future in running if future in done]:
                result = future.result()
                yield running.pop(future), result
        except BrokenProcessPool:
            # They start in the order in which they were given out.
            paths = [str(task.path) for task in islice(running.values(), jobs)]
            raise UserError(
                "expected the processes to live until the end; found one killed, as the system "
                f"does when memory runs out. In work: {', '.join(paths)}. Run again to go on from "
                "here, with fewer --jobs for less memory."
            ) from None
