"""Training samples that depend on the seed and their place in the run, and on nothing else.

A sample is named by its index in the dataset, the epoch and its position in the epoch, which
counts the samples of all processes.  So it is the same whichever worker or process makes it,
however far ahead, and a run can go on at any position on any number of processes.
"""

import errno
import functools
import math
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from basicsr.data import build_dataloader
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.prefetch_dataloader import CUDAPrefetcher
from rich.filesize import decimal
from torch.utils.data import DataLoader, Dataset

from esc_arch.errors import UserError, first_line
from esc_arch.files import free_bytes
from esc_arch.plugin.workarounds import SHORTAGES
from esc_arch.training import Options, bad_samples, random_states

__all__ = ["Sample", "SeededSamples", "TrainSampler", "batches", "shortage", "train_loader"]


# Seeds what a batch shares, where attempts in place of bad samples have their number.
_OF_BATCH = 2**31

# What PyTorch says of a machine that has no more of something, and of a worker that is gone.
_SHORTAGES = (
    *("Too many open files", "No space left on device", "Cannot allocate memory"),
    *("can't start new thread", "items of ancdata", "unable to open shared memory"),
    *("unable to mmap", "unable to write to file", "DataLoader worker (pid"),
)


class Sample(NamedTuple):
    """The name of a sample.

    Attributes:
        position: counts the samples of all processes in the epoch.
        batch: position of the first sample of its batch, which all processes share.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index
    epoch: int
    position: int
    batch: int = 0


@runtime_checkable
class BatchDataset(Protocol):
    """A dataset whose samples have something in common with the others of their batch."""

    def draw_for_batch(self) -> Any:
        """The part in common, drawn from the generators as they are."""

    def get_item(self, index: int, drawn: Any) -> Any:
        """A sample with that."""


class TrainSampler(EnlargedSampler):
    """EnlargedSampler that gives :class:`Sample` and can begin inside an epoch.

    The order of an epoch is EnlargedSampler's for one process.  Several processes take turns
    in it, so each step has the samples that one process with the whole batch would take; those
    at the end for which there are not enough processes are left out, as by one process those
    that do not fill a batch.

    Attributes:
        length: samples of an epoch.
        batch_samples: of a batch, of all processes; set with the loader.
    """

    def __init__(self, dataset: Any, num_replicas: int, rank: int, ratio: float = 1) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        self.length = math.ceil(len(dataset) * ratio)
        self.batch_samples = 1
        self._begin = 0

    def begin(self, epoch: int, position: int = 0) -> None:
        """Set the epoch, and where in it the next iteration over this begins."""
        self.set_epoch(epoch)
        self._begin = min(position, self.length)

    def __len__(self) -> int:
        return (self.length - self._begin) // int(self.num_replicas)

    def __iter__(self) -> Iterator[Sample]:
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        first = self._begin + self.rank
        for position in range(first, first + len(self) * self.num_replicas, self.num_replicas):
            # Batches begin where the run goes on, with whatever size they have there.
            batch = position - (position - self._begin) % self.batch_samples
            yield Sample(order[position] % len(self.dataset), self.epoch, position, batch)


class SeededSamples(Dataset[Any]):
    """A dataset by :class:`Sample`, each made with its own random numbers.

    Args:
        dataset: may draw from the generators of Python, NumPy and PyTorch; of a
            :class:`BatchDataset`, what a batch shares depends on the seed and its place.
        seed: of the run.
        skips: whether another sample takes the place of a bad one.  Which one depends on the
            seed and the place alone.
    """

    def __init__(self, dataset: Any, seed: int, skips: bool = False) -> None:
        self.dataset = dataset
        self.seed = seed
        self.skips = skips

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, sample: Sample) -> tuple[Any, list[str]]:
        """The sample, or None, and the bad samples that were skipped before it."""
        reasons: list[str] = []
        # Without workers, the model draws from the same generators.
        with random_states.kept():
            make = self._maker(sample)
            for attempt in range(bad_samples.ATTEMPTS if self.skips else 1):
                index = sample.index
                if attempt == 0:
                    random_states.seed_cpu(self.seed, sample.epoch, sample.position)
                else:
                    random_states.seed_cpu(self.seed, sample.epoch, sample.position, attempt)
                    index = random.randrange(len(self.dataset))
                try:
                    return bad_samples.get_item(self.dataset, index, make(index)), reasons
                except bad_samples.BadSample as error:
                    reasons.append(str(error))
        return None, reasons

    def _maker(self, sample: Sample) -> Callable[[int], Callable[[], Any] | None]:
        """By an index, the function that makes its sample in this place; None for the usual."""
        dataset = self.dataset
        if not isinstance(dataset, BatchDataset):
            return lambda index: None
        random_states.seed_cpu(self.seed, sample.epoch, sample.batch, _OF_BATCH)
        drawn = dataset.draw_for_batch()
        return lambda index: lambda: dataset.get_item(index, drawn)


def train_loader(
    dataset: Any, opt: Options, sampler: TrainSampler, seed: int
) -> "DataLoader[dict[str, Any]]":
    """BasicSR's loader over :class:`SeededSamples`; its batches are whole ones.

    Args:
        dataset: of ``datasets.train``.
        opt: the run's options.
    """
    own = dict(opt["datasets"]["train"])
    # Defect: the thread of BasicSR's `cpu` mode keeps the loader waiting for ever after an error.
    # PyTorch's workers fetch ahead without it.
    mode, ahead = own.pop("prefetch_mode", None), own.pop("num_prefetch_queue", 1)
    samples = SeededSamples(dataset, seed, own.get("on_error") == "skip")
    loader: DataLoader[dict[str, Any]] = build_dataloader(
        samples, own, num_gpu=opt["num_gpu"], dist=opt["dist"], sampler=sampler
    )
    sampler.batch_samples = loader.batch_size * sampler.num_replicas
    loader.collate_fn = bad_samples.collate
    if loader.num_workers:
        loader.worker_init_fn = functools.partial(_leave_signals_to, os.getpid())
        if mode == "cpu":
            # For each worker, whose default is 2.
            loader.prefetch_factor = 2 + math.ceil(ahead / loader.num_workers)
    # Each start of the workers would draw from the generator that the model draws from.
    loader.generator = torch.Generator()
    return loader


def batches(loader: "DataLoader[dict[str, Any]]", opt: Options) -> Iterator[dict[str, Any]]:
    """The batches of an epoch from where the loader's sampler begins.

    Args:
        opt: the run's options, of which ``prefetch_mode: cuda`` puts batches onto the GPU ahead.
    """
    if opt["datasets"]["train"].get("prefetch_mode") == "cuda":
        with _signals_held():
            fetched = CUDAPrefetcher(loader, opt)
        return iter(fetched.next, None)
    with _signals_held():
        return iter(loader)


def shortage(error: Exception) -> UserError | None:
    """An error of the machine around the workers as one message; None for any other.

    There are no more files, processes, threads or shared memory to have, or a worker was killed,
    which PyTorch raises wherever the training process is.
    """
    is_short = isinstance(error, OSError) and error.errno in (*SHORTAGES, errno.EAGAIN)
    is_said = isinstance(error, RuntimeError) and any(text in str(error) for text in _SHORTAGES)
    if not is_short and not is_said:
        return None
    shared = ""
    with suppress(OSError):
        shared = f"; free in /dev/shm are {decimal(free_bytes(Path('/dev/shm')))}"
    return UserError(
        "datasets.train.num_worker_per_gpu: expected workers that can run here; found "
        f"{first_line(error)}{shared}. Lower it, or give the training more memory, shared memory "
        "(/dev/shm), processes (`ulimit -u`) or open files (`ulimit -n`), and go on with "
        "--auto_resume."
    )


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGTERM and Ctrl-C back: workers that start meanwhile keep them so, until they have
    their own way with them, which may be seconds later."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if multiprocessing.get_start_method(allow_none=True) == "spawn":
        # Its start, at the first worker otherwise, ends the holding back.
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_worker(error: BaseException, batch: object = None) -> None:
    """End this worker; the training process finds that it is gone."""
    os.write(2, f"basicsr: a worker ends: {type(error).__name__}: {first_line(error)}\n".encode())
    os._exit(1)


def _leave_signals_to(parent: int, worker: int) -> None:
    """Let a worker end when the training process ends it, and by no Ctrl-C or SIGTERM that is
    sent to all processes of a job: the training process has to save first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Defect: a batch that a worker cannot send is dropped with a traceback, and the training
    # waits for it without end; the thread that lends open files tries without end.
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    sys.excepthook = lambda kind, error, trace: _end_worker(error)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
