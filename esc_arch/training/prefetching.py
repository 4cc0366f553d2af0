"""Batches one after another, fetched ahead as ``prefetch_mode`` says."""

import multiprocessing
import queue
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from basicsr.data.prefetch_dataloader import CUDAPrefetcher
from torch.utils.data import DataLoader

__all__ = ["Batches"]

_POLL_S = 0.2


class Batches:
    """The batches of one epoch after another.

    Args:
        loader: of the training samples.
        opt: the run's options; ``prefetch_mode``, ``num_prefetch_queue`` are read.
    """

    def __init__(self, loader: DataLoader, opt: dict) -> None:
        dataset = opt["datasets"]["train"]
        self._loader = loader
        self._opt = opt
        self._mode = dataset.get("prefetch_mode")
        self._ahead = dataset.get("num_prefetch_queue", 1)
        self._cuda: CUDAPrefetcher | None = None

    @contextmanager
    def epoch(self) -> Iterator[Iterator[dict]]:
        """The batches from where the loader's sampler begins; leaving ends the fetching."""
        if self._mode == "cuda":
            yield self._onto_gpu()
        # A thread without workers would draw from the generators that the model draws from.
        elif self._mode == "cpu" and self._loader.num_workers:
            batches = _Ahead(self._started(), self._ahead)
            try:
                yield iter(batches)
            finally:
                batches.stop()
        else:
            yield self._started()

    def _started(self) -> Iterator[dict]:
        with _signals_held():
            return iter(self._loader)

    def _onto_gpu(self) -> Iterator[dict]:
        with _signals_held():
            if self._cuda is None:
                self._cuda = CUDAPrefetcher(self._loader, self._opt)
            else:
                self._cuda.reset()
        while (batch := self._cuda.next()) is not None:
            yield batch


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGTERM and Ctrl-C back: workers that start meanwhile keep them so, until they see
    to them themselves (:mod:`esc_arch.training.sampling`), which may be seconds later."""
    if multiprocessing.get_start_method(allow_none=True) == "spawn":
        # Its start, at the first worker otherwise, ends the holding back.
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Ahead(threading.Thread):
    """Takes up to ``count`` items before they are asked for; hands errors on."""

    def __init__(self, items: Iterable[dict], count: int) -> None:
        super().__init__(daemon=True)
        self._items = items
        self._queue: queue.Queue = queue.Queue(count)
        self._is_stopped = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            for item in self._items:
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except Exception as error:
            self._put((None, error))

    def _put(self, entry: tuple) -> bool:
        while not self._is_stopped.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[dict]:
        while True:
            item, error = self._queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item

    def stop(self) -> None:
        """End the thread, which may be waiting for room."""
        self._is_stopped.set()
        self.join()
